"""Dialogues as responses: whose token is whose, that each row is sampled on its own, and that nothing of the environment reaches a loss."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from tiny import METHODS, config, tiny_policy

from vrpo.config import GenerationConfig
from vrpo.critics.value_model import ValueModel
from vrpo.data.batch import Rollout
from vrpo.data.prompts import TURN_SEPARATOR
from vrpo.data.text import decode, encode, encode_turns, pad_prompts, spans
from vrpo.errors import UserError
from vrpo.metrics.monte_carlo import monte_carlo_check
from vrpo.models.forward import policy_forward
from vrpo.models.supervised import encode_completion
from vrpo.rewards.experience import new_experience
from vrpo.rollout.conversation import converse, replies
from vrpo.rollout.sampler import Sampler, new_sampler
from vrpo.tasks.dialogue.task import DialogueTask, new_tokenizer
from vrpo.training.trainer import Trainer

SETTINGS = GenerationConfig(max_new_tokens=5, max_turns=3)


@pytest.fixture(scope="module")
def tokenizer():
    return new_tokenizer()


@pytest.fixture(scope="module")
def chat_tokenizer():
    """A byte-level tokenizer with ChatML, as hub models have it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    marks = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    core = Tokenizer(models.BPE({s: i for i, s in enumerate([*marks, *sorted(pre_tokenizers.ByteLevel.alphabet())])}, []))
    core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    chat = PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>"],
        padding_side="left",
    )
    chat.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    return chat


def talk(tokenizer, rows=6, english=False, seed=3, **options):
    task = DialogueTask(tokenizer, SETTINGS.max_turns, english)
    problems = task.generate(rows, 0, set())
    policy = tiny_policy(tokenizer, seed=1)
    prompts = encode(tokenizer, [task.prompt(row["question"]) for row in problems])
    sampler = new_sampler(policy, tokenizer, SETTINGS.model_copy(update=options))
    rollout = converse(sampler, prompts, replies(task.environment, problems), seed=seed)
    return task, problems, sampler, prompts, rollout


def row_tokens(rollout, row):
    written = rollout.written[row]
    return rollout.responses[row][written].tolist(), rollout.response_mask[row][written].tolist()


def test_turns_alternate(tokenizer) -> None:
    *_, rollout = talk(tokenizer)
    assert not (rollout.environment_mask & rollout.response_mask).any()
    for row, text in enumerate(decode(tokenizer, rollout)):
        turns = spans(rollout.response_mask[row])
        assert len(text.split(TURN_SEPARATOR)) == len(turns) <= SETTINGS.max_turns
        assert all(rollout.environment_mask[row, a.stop : b.start].all() and b.start > a.stop for a, b in pairwise(turns))
        assert not rollout.written[row, turns[-1].stop :].any()


def test_a_perfect_assistant_is_sampled_in_the_tokens_it_would_be_taught(tokenizer) -> None:
    """Rollouts, demonstrations and rewards see the same dialogue: nothing is lost between tokens and text."""
    task = DialogueTask(tokenizer)
    problems = task.generate(8, 0, set())
    scripts = [iter(task.demonstration(row)[::2]) for row in problems]

    class Perfect(Sampler):
        def sample(self, prompts, *, seed, places, limits=None):
            said = [[*tokenizer(next(scripts[place]), add_special_tokens=False)["input_ids"], tokenizer.eos_token_id] for place in places]
            ids, mask = (part.flip(1) for part in pad_prompts([line[::-1] for line in said], tokenizer.pad_token_id))
            return Rollout(*pad_prompts(prompts, tokenizer.pad_token_id), ids, mask, torch.zeros(ids.shape))

    prompts = encode(tokenizer, [task.prompt(row["question"]) for row in problems])
    rollout = converse(Perfect(None, tokenizer, GenerationConfig()), prompts, replies(task.environment, problems), seed=0)
    texts = decode(tokenizer, rollout)
    assert task.verify(texts, [row["answer"] for row in problems]) == [1.0] * 8
    for row, problem in enumerate(problems):
        assert row_tokens(rollout, row) == encode_turns(tokenizer, task.demonstration(problem))
        assert row_tokens(rollout, row)[0] == encode_completion(tokenizer, task.completion(texts[row], problem["answer"]))[0]


def test_a_turn_without_end_gets_one_from_the_environment(tokenizer) -> None:
    *_, rollout = talk(tokenizer)
    eos = tokenizer.eos_token_id
    cut = 0
    for row in range(len(rollout)):
        for turn in spans(rollout.response_mask[row])[:-1]:
            ended = rollout.responses[row, turn.stop - 1] == eos
            cut += not ended
            assert (rollout.responses[row, turn.stop] == eos) == (not ended)
    assert cut


def test_rows_do_not_depend_on_their_neighbours(tokenizer) -> None:
    task, problems, sampler, prompts, rollout = talk(tokenizer)
    for row in (0, 3, 5):
        alone = converse(sampler, [prompts[row]], replies(task.environment, [problems[row]]), seed=3, places=[row])
        assert row_tokens(alone, 0) == row_tokens(rollout, row)
    small = talk(tokenizer, batch_size=2)[-1]
    assert torch.equal(small.responses, rollout.responses) and torch.equal(small.response_mask, rollout.response_mask)


def test_logprobs_are_those_of_the_whole_dialogue(tokenizer) -> None:
    """Sampling turn by turn and one forward pass over prompt, turns and gaps agree: positions and attention are right."""
    *_, sampler, _, rollout = talk(tokenizer)
    again = policy_forward(sampler.model, rollout, 1.0).logprobs
    assert (again - rollout.logprobs)[rollout.response_mask].abs().max() < 1e-4
    assert rollout.logprobs[rollout.environment_mask].eq(0).all()


def test_a_dialogue_goes_on_from_any_token_with_its_environment(tokenizer) -> None:
    task, problems, sampler, prompts, rollout = talk(tokenizer)
    seen = []

    def reply(place, turns):
        seen.append((place, list(turns)))
        return task.environment(problems[place], turns)

    prefixes, whole = [], [row_tokens(rollout, row) for row in range(len(rollout))]
    for row, (ids, own) in enumerate(whole):
        second = spans(rollout.response_mask[row])[1:2]
        cut = second[0].start + 1 if second else 0  # in the middle of the second turn
        prefixes.append((ids[:cut], own[:cut]))
    continued = converse(sampler, prompts, reply, seed=9, prefixes=prefixes)
    for row, (ids, own) in enumerate(prefixes):
        found_ids, found_own = row_tokens(continued, row)
        assert found_ids[: len(ids)] == ids and found_own[: len(ids)] == own and len(found_ids) > len(ids)
        first = decode(tokenizer, rollout)[row].split(TURN_SEPARATOR)[0]
        assert all(turns[0] == first for place, turns in seen if place == row and ids)
    fresh = converse(sampler, prompts, reply, seed=3, prefixes=[([], [])] * len(prompts))
    assert torch.equal(fresh.responses, rollout.responses)


def test_monte_carlo_values_are_those_of_continued_dialogues(tokenizer) -> None:
    task, problems, sampler, prompts, _ = talk(tokenizer)
    critic = ValueModel.from_policy(sampler.model, shared=False, depth=0, latent_size=1, seed=0)
    scored = []

    def score(texts):
        scored.extend(texts)
        return [float(len(text.split(TURN_SEPARATOR)) > 1) for text in texts]

    reply = replies(task.environment, problems)
    check = monte_carlo_check(sampler, critic, prompts, score, samples=2, seed=0, reply=reply)
    assert len(scored) == 12 and check.monte_carlo.shape == (6,)
    assert max(len(text.split(TURN_SEPARATOR)) for text in scored) > 1


@pytest.mark.parametrize("method", METHODS)
def test_nothing_of_the_environment_reaches_an_update(tokenizer, method) -> None:
    """Rubbish in the gaps of an experience changes no weight: they enter no mean, no advantage and no mask."""
    weights = []
    for rubbish in (0.0, 999.0, float("nan")):
        run = new_trainer(tokenizer, method)
        rows = [row for row in run.problems[:4] for _ in range(run.algorithm.group_size)]
        experience, _ = run.collect(rows, list(range(run.algorithm.group_size)) * 4, 1)
        gaps = experience.environment_mask
        assert gaps.any()
        names = [name for name in ("logprobs", "rewards", "values", "returns", "advantages") if getattr(experience, name) is not None]
        experience = replace(experience, **{name: torch.where(gaps, torch.tensor(rubbish), getattr(experience, name)) for name in names})
        run.update(experience, 1, steps=2, policy_epochs=1, critic_epochs=int(run.critic is not None))
        weights.append({name: tensor.clone() for name, tensor in run.updater.models.state_dict().items()})
    for other in weights[1:]:
        assert all(torch.equal(weights[0][name], other[name]) for name in other)


def new_trainer(tokenizer, method, reward=None, **changes) -> Trainer:
    task = DialogueTask(tokenizer, SETTINGS.max_turns)
    problems = [
        {"prompt": task.prompt(row["question"]), "id": str(i), "answer": row["answer"]} for i, row in enumerate(task.generate(12, 0, set()))
    ]

    def clean(prompts, responses, *, answer, **_):  # random policies complete nothing; some of them ask
        return [float("ask" in text or "call" in text) for text in responses]

    policy = tiny_policy(tokenizer, seed=1)
    options = {"environment": task.environment, "generation": SETTINGS, "validation": problems[:4]}
    return Trainer(config(iterations=1, rollouts=48, **changes), policy, tokenizer, problems, reward or clean, method=method, **options)


@pytest.mark.parametrize("method", ["grpo", "vrpo"])
def test_training_on_dialogues_ends_with_finite_numbers(tokenizer, method) -> None:
    log = new_trainer(tokenizer, method).run()
    assert log[-1]["length/mean"] <= SETTINGS.max_new_tokens * SETTINGS.max_turns
    assert all(value == value for row in log for value in row.values())


def test_rewards_of_turns_stand_at_their_ends(tokenizer) -> None:
    *_, rollout = talk(tokenizer)
    turns = [spans(mask) for mask in rollout.response_mask]
    scores = [[float(place + 1) for place in range(len(found))] for found in turns]
    experience = new_experience(rollout, [*scores[:-1], None])
    for row, found in enumerate(turns[:-1]):
        assert [experience.rewards[row, turn.stop - 1].item() for turn in found] == scores[row]
        assert experience.rewards[row].sum() == sum(scores[row])
    assert experience.rewards[-1].eq(0).all() and not experience.response_mask[-1].any()
    with pytest.raises(UserError, match="scores to a response of"):
        new_experience(rollout, [[1.0] * 9] * len(rollout))


def test_a_chat_model_talks_through_its_template(chat_tokenizer) -> None:
    task, problems, sampler, _, rollout = talk(chat_tokenizer, rows=2, english=True)
    text = chat_tokenizer.decode(rollout.responses[0][rollout.written[0]])
    assert "<|im_end|>\n<|im_start|>user\n" in text and text.count("<|im_start|>assistant\n") == len(spans(rollout.response_mask[0])) - 1
    assert "sorry, what do you mean?" in text  # the user did not understand a random model
    again = policy_forward(sampler.model, rollout, 1.0).logprobs
    assert (again - rollout.logprobs)[rollout.response_mask].abs().max() < 1e-4
    assert "book_table" in task.prompt(task.generate(40, 0, set())[0]["question"]) or "INTENT" in task.prompt(problems[0]["question"])


def test_a_tokenizer_without_template_is_refused(task, problems, policy, request) -> None:
    plain = request.getfixturevalue("tokenizer")
    template, plain.chat_template = plain.chat_template, None
    try:
        with pytest.raises(UserError, match="chat template"):
            encode_turns(plain, ["ask date", "on_monday"])
    finally:
        plain.chat_template = template


def test_a_state_of_a_dialogue_is_worth_the_turns_to_come(tokenizer) -> None:
    """With a reward a turn, what the turns before a state earned is no part of its value."""
    task, problems, sampler, prompts, _ = talk(tokenizer)
    critic = ValueModel.from_policy(sampler.model, shared=False, depth=0, latent_size=1, seed=0)
    counted = []

    def score(texts):
        counted.extend(len(text.split(TURN_SEPARATOR)) for text in texts)
        return [[1.0] * len(text.split(TURN_SEPARATOR)) for text in texts]

    check = monte_carlo_check(sampler, critic, prompts, score, samples=2, seed=0, reply=replies(task.environment, problems))
    whole = torch.tensor(counted).view(-1, 2).float().mean(1)
    assert (check.monte_carlo >= 1).all() and (check.monte_carlo <= whole).all()  # the turn that it is in counts
    assert (check.monte_carlo < whole).any()


def test_dr_grpo_divides_by_the_longest_possible_dialogue(tokenizer) -> None:
    run = new_trainer(tokenizer, "dr_grpo", lambda prompts, responses, **_: [float(len(text)) for text in responses])
    experience, _ = run.collect([row for row in run.problems[:4] for _ in range(4)], list(range(4)) * 4, 1)
    longest = SETTINGS.max_new_tokens * SETTINGS.max_turns
    found, mask = run.updater.step(experience, 1, True, False), experience.response_mask
    losses = -experience.advantages[mask].sum() / (len(experience) * longest)  # before the first step the ratio is 1
    assert found["policy/loss"] == pytest.approx(float(losses), rel=1e-4) and abs(float(losses)) > 1e-4


def test_clean_rewards_of_turns_show_no_noise_and_are_no_accuracy(tokenizer) -> None:
    """What training sees is the clean reward: one explained variance, no noise in the advantages; accuracy has a reward of its own."""

    def turns(prompts, responses, **_):
        return [[float(len(turn) % 2) for turn in text.split(TURN_SEPARATOR)] for text in responses]

    run = new_trainer(tokenizer, "ppo", turns)
    run.clean_reward, run.accuracy = turns, lambda prompts, responses, **_: [0.25] * len(responses)
    log = run.run()
    assert {row["validation/accuracy"] for row in log} == {0.25} and log[0]["reward/observed"] > 0.3
    for row in log:
        assert row["reward/observed"] == row["reward/clean"] and row["advantage/noise_variance"] == 0
        assert row["critic/ev_observed"] == row["critic/ev_clean"]
