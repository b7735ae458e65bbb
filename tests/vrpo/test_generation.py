"""Decoding: right log-probabilities, right masks, independent of batch size, prompt padding and neighbours."""

import pytest
import torch

from vrpo.config import GenerationConfig
from vrpo.data.text import decode, encode
from vrpo.models.forward import policy_forward
from vrpo.rollout.engines.transformers import generate, generation_settings

SETTINGS = {"max_new_tokens": 12, "temperature": 0.7}


def sample(policy, tokenizer, prompts, seed=0, batch_size=512):
    settings = generation_settings(policy, tokenizer, GenerationConfig(**SETTINGS, batch_size=batch_size))
    return generate(policy, prompts, seed=seed, **settings)


def absolute_positions(tokenizer):
    """A GPT-2: its learned positions notice what rotary ones forgive, such as counting the left padding."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    sizes = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 64, "initializer_range": 0.3}
    ids = {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    return GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), **sizes, **ids)).eval()


@pytest.mark.parametrize("positions", ["rotary", "absolute"])
def test_logprobs_equal_a_forward_pass_over_each_row_alone(policy, tokenizer, problems, positions: str) -> None:
    model = policy if positions == "rotary" else absolute_positions(tokenizer)
    prompts = encode(tokenizer, [row["prompt"] for row in problems])
    prompts = [prompt[i % 5 :] for i, prompt in enumerate(prompts)]  # ragged, so that left padding matters
    rollout = sample(model, tokenizer, prompts)
    with torch.no_grad():
        batched = policy_forward(model, rollout, SETTINGS["temperature"]).logprobs
    for row, prompt in enumerate(prompts):
        response = rollout.responses[row][rollout.response_mask[row]]
        with torch.no_grad():
            logits = model(torch.tensor([prompt + response.tolist()])).logits[0, len(prompt) - 1 : -1] / SETTINGS["temperature"]
        alone = torch.log_softmax(logits, -1).gather(1, response[:, None])[:, 0]
        assert torch.allclose(rollout.logprobs[row][rollout.response_mask[row]], alone, atol=1e-4)
        assert torch.allclose(batched[row][rollout.response_mask[row]], alone, atol=1e-4)
    assert (rollout.logprobs[~rollout.response_mask] == 0).all()


def test_samples_do_not_depend_on_the_generation_batch(policy, tokenizer, problems) -> None:
    prompts = encode(tokenizer, [row["prompt"] for row in problems])
    whole, parts = sample(policy, tokenizer, prompts), sample(policy, tokenizer, prompts, batch_size=7)
    assert torch.equal(whole.responses, parts.responses)
    assert torch.equal(whole.response_mask, parts.response_mask)
    assert not torch.equal(whole.responses, sample(policy, tokenizer, prompts, seed=1).responses[:, : whole.responses.shape[1]])


def test_mask_ends_with_the_first_eos_and_nothing_follows(policy, tokenizer, problems) -> None:
    rollout = sample(policy, tokenizer, encode(tokenizer, [row["prompt"] for row in problems]))
    ended = 0
    for ids, mask in zip(rollout.responses.tolist(), rollout.response_mask.tolist(), strict=True):
        length = sum(mask)
        assert mask == [True] * length + [False] * (len(mask) - length)
        assert tokenizer.eos_token_id not in ids[: length - 1]
        ended += ids[length - 1] == tokenizer.eos_token_id
        assert ids[length - 1] == tokenizer.eos_token_id or length == SETTINGS["max_new_tokens"]
    assert 0 < ended < len(rollout)  # both ways of stopping were seen


def test_sampling_follows_the_distribution(policy, tokenizer, problems) -> None:
    prompt = encode(tokenizer, [problems[0]["prompt"]])[0]
    first = sample(policy, tokenizer, [prompt] * 4000).responses[:, 0]
    with torch.no_grad():
        expected = torch.softmax(policy(torch.tensor([prompt])).logits[0, -1] / SETTINGS["temperature"], -1)
    observed = torch.bincount(first, minlength=len(expected)) / 4000
    assert (observed - expected).abs().max() < 0.03  # 4 standard errors of a share of one half


def test_decode_leaves_out_padding_and_eos(policy, tokenizer, problems) -> None:
    rollout = sample(policy, tokenizer, encode(tokenizer, [row["prompt"] for row in problems]))
    for text, length in zip(decode(tokenizer, rollout), rollout.lengths.tolist(), strict=True):
        assert "<" not in text
        assert len(text) <= length


def test_programs_of_before_the_rooms_find_the_same_function() -> None:
    from vrpo.generation import decode as old_decode
    from vrpo.generation import generate as old_generate

    assert old_generate is generate and old_decode is decode
