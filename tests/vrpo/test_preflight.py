"""What cannot be trained on is refused by name before any work; responses end where tokenizer or model say so."""

import pytest
import torch
from test_generation import absolute_positions
from tiny import config, count_digits, tiny_policy, trainer

from vrpo.config import GenerationConfig
from vrpo.critics.value_model import ValueModel
from vrpo.data.text import encode
from vrpo.errors import UserError
from vrpo.models.supervised import encode_completion, fit_demonstrations
from vrpo.rollout.conversation import converse
from vrpo.rollout.engines.transformers import generate, generation_settings
from vrpo.rollout.sampler import new_sampler
from vrpo.rollout.samples import sample_texts
from vrpo.training.trainer import Trainer


def new_trainer(policy, tokenizer, problems, reward=count_digits, new=8, **options) -> Trainer:
    return Trainer(config(), policy, tokenizer, problems, reward, generation=GenerationConfig(max_new_tokens=new), **options)


def blank_for(tokenizer) -> None:
    """Make a text of a single space one of no tokens, as tokenizers that split at spaces do."""
    from tokenizers import normalizers

    tokenizer.backend_tokenizer.normalizer = normalizers.Strip()


@pytest.fixture
def own_tokenizer():
    from vrpo.tasks.math.chain import new_tokenizer

    return new_tokenizer()


def test_prompts_that_become_no_tokens_are_named(policy, own_tokenizer) -> None:
    blank_for(own_tokenizer)
    with pytest.raises(UserError, match="training data, row 1: becomes no tokens"):
        new_trainer(policy, own_tokenizer, ["1+1.:", " "])
    with pytest.raises(UserError, match="validation data, row 0: becomes no tokens"):
        new_trainer(policy, own_tokenizer, ["1+1.:"], validation=[" "])
    with pytest.raises(UserError, match="prompt 1: becomes no tokens"):
        sample_texts(new_sampler(policy, own_tokenizer, GenerationConfig()), ["1+1.:", " "], 1, seed=(0,))


def test_the_value_of_a_text_without_tokens_is_an_empty_list(policy, tokenizer) -> None:
    critic = ValueModel.from_policy(policy, shared=False, depth=0, latent_size=1, seed=0)
    assert critic.score(tokenizer, ["1+1", "", "2"]) == [[0.5] * 3, [], [0.5]]
    with pytest.raises(UserError, match="text 1: 70 tokens, more than the model's 64 positions"):
        ValueModel.from_policy(absolute_positions(tokenizer), shared=False, depth=0, latent_size=1, seed=0).score(
            tokenizer, ["1", "1" * 70]
        )


@pytest.mark.parametrize("positions", ["rotary", "absolute"])
def test_texts_longer_than_the_models_positions_are_named(policy, tokenizer, positions: str) -> None:
    model = policy if positions == "rotary" else absolute_positions(tokenizer)
    new_trainer(model, tokenizer, ["1" * 56])
    with pytest.raises(UserError, match=r"training data, row 1: 57 tokens and generation.max_new_tokens = 8 make 65, more than .* 64 pos"):
        new_trainer(model, tokenizer, ["1+1.:", "1" * 57])
    with pytest.raises(UserError, match="sft: demonstration 0: 66 tokens"):
        rows = [{"prompt": "1" * 60, "completion": "2" * 5}]
        fit_demonstrations(model, tokenizer, rows, steps=1, batch_size=1, learning_rate=1e-3, seed=0, stage="sft")


def test_sampling_beyond_trained_positions_is_told_where_there_are_numbers_and_refused_where_not(policy, tokenizer, caplog) -> None:
    settings = GenerationConfig(max_new_tokens=8)
    texts, _ = sample_texts(new_sampler(policy, tokenizer, settings), ["1" * 60, "1" * 61], 1, seed=(0,))
    assert len(texts) == 2 and sum("prompt 0: 60 tokens" in record.message for record in caplog.records) == 1
    with pytest.raises(UserError, match="prompt 0: 60 tokens"):
        sample_texts(new_sampler(absolute_positions(tokenizer), tokenizer, settings), ["1" * 60], 1, seed=(0,))


def test_a_dialogue_that_outgrows_a_table_of_positions_is_a_clear_error(own_tokenizer) -> None:
    model, prompts = absolute_positions(own_tokenizer), encode(own_tokenizer, ["1+1.:", "1+1+1.:"])
    own_tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}:{% endfor %}"
    sampler = new_sampler(model, own_tokenizer, GenerationConfig(max_new_tokens=40, max_turns=3))
    sampler.ends = []
    with pytest.raises(UserError, match="grew beyond the model's 64 positions"):
        converse(sampler, prompts, lambda place, turns: "0", seed=0)
    sampler.generation = GenerationConfig(max_new_tokens=57)  # 7 + 57 fill the table to the last position
    whole = sampler.sample(prompts, seed=0)
    assert whole.responses.shape == (2, 57)


def test_rows_that_ended_do_not_run_off_a_table_of_positions(tokenizer) -> None:
    """A long prompt whose response ends at once stays in the batch until more have ended."""
    model, settings = absolute_positions(tokenizer), {"temperature": 1e-4, "pad_token_id": 0, "seed": 0}  # the likeliest tokens
    others = generate(model, [[6] * 20] * 9, max_new_tokens=30, eos_token_id=[], **settings).responses
    starts = {token: generate(model, [[token] * 60], max_new_tokens=1, eos_token_id=[], **settings).responses.item() for token in range(18)}
    token, end = next((token, end) for token, end in starts.items() if end not in others)
    rollout = generate(model, [[token] * 60, *([[6] * 20] * 9)], max_new_tokens=30, eos_token_id=[end], **settings)
    assert rollout.lengths.tolist() == [1] + [30] * 9 and torch.equal(rollout.responses[1:], others)


def test_tokens_without_a_row_in_the_embedding_are_named(policy, own_tokenizer) -> None:
    new_trainer(policy, own_tokenizer, ["1+1.:"])
    own_tokenizer.add_tokens(["<think>"], special_tokens=True)
    new_trainer(policy, own_tokenizer, ["1+1.:"])  # a row that no prompt needs is not missed
    with pytest.raises(
        UserError, match=r"training data, row 1: holds token 18, but the model's embedding has 18 rows.*resize_token_embeddings"
    ):
        new_trainer(policy, own_tokenizer, ["1+1.:", "<think>1+1.:"])
    with pytest.raises(UserError, match="prompt 0: holds token 18"):
        sample_texts(new_sampler(policy, own_tokenizer, GenerationConfig()), ["<think>"], 1, seed=(0,))
    own_tokenizer.pad_token = "<think>"
    with pytest.raises(UserError, match="pad_token '<think>' has id 18"):
        new_trainer(policy, own_tokenizer, ["1+1.:"])


@pytest.mark.parametrize(("own", "generation", "union"), [(1, 5, [1, 5]), (1, [5, 1, 6], [1, 5, 6]), (None, [5], [5]), (1, None, [1])])
def test_the_ends_of_tokenizer_and_generation_config_both_end_a_response(own_tokenizer, problems, own, generation, union) -> None:
    policy = tiny_policy(own_tokenizer)
    own_tokenizer.eos_token = own_tokenizer.convert_ids_to_tokens(own) if own else None
    policy.generation_config.eos_token_id = generation
    assert generation_settings(policy, own_tokenizer, GenerationConfig())["eos_token_id"] == union
    rollout = new_trainer(policy, own_tokenizer, problems, new=20).collector.sample(problems, 7)
    last = [ids[mask].tolist() for ids, mask in zip(rollout.responses, rollout.response_mask, strict=True)]
    assert not any(set(ids[:-1]) & set(union) for ids in last)
    assert {ids[-1] for ids in last} >= set(union)


def test_a_model_without_an_end_is_refused(policy, own_tokenizer) -> None:
    own_tokenizer.eos_token = policy.generation_config.eos_token_id = None
    with pytest.raises(UserError, match=r"no response would end; set tokenizer.eos_token"):
        new_trainer(policy, own_tokenizer, ["1+1.:"])


def test_demonstrated_dialogues_end_their_turns_once_where_model_and_tokenizer_name_different_ends(policy, own_tokenizer) -> None:
    """The template closes a turn with ":", which the model knows as an end and the tokenizer does not."""
    own_tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}:{% endfor %}"
    ends = [own_tokenizer.eos_token_id, own_tokenizer.convert_tokens_to_ids(":")]
    policy.generation_config.eos_token_id = ends[1]
    ids, own = encode_completion(own_tokenizer, ["1", "2", "3"], policy)
    assert own_tokenizer.convert_ids_to_tokens(ids) == ["1", "<eos>", "2", ":", "3", "<eos>"]
    assert own == [True, True, False, False, True, True]


def test_what_a_run_lacks_is_named(policy, tokenizer, problems) -> None:
    with pytest.raises(
        UserError, match="method = 'vpro': no such method; use one of asyppo, dr_grpo, grpo, oracle, pf_ppo, ppo, regulated"
    ):
        trainer(tokenizer, problems, "vpro")
    with pytest.raises(UserError, match="tokenizer is None"):
        new_trainer(policy, None, ["1+1.:"])
    with pytest.raises(UserError, match="a dialogue needs a tokenizer with a chat template"):
        template, tokenizer.chat_template = tokenizer.chat_template, None
        try:
            new_trainer(policy, tokenizer, ["1+1.:"], environment=lambda row, turns: None)
        finally:
            tokenizer.chat_template = template


@pytest.mark.parametrize("policy", [None, 3, {"model": "llama"}])
def test_what_is_no_model_is_refused(tokenizer, problems, policy) -> None:
    with pytest.raises(UserError, match=r"policy: .* is no model; give a causal language model"):
        new_trainer(policy, tokenizer, problems)
