"""Responses by tokens: which are shown, what their numbers are, how they are coloured."""

import pytest
import torch

from pipeline.params import Params
from pipeline.reporting.heat_maps import heat_map, scales_of, shade
from pipeline.stages import evaluate
from pipeline.stages.token_values import choose, read_tokens
from pipeline.workspace import HERE
from vrpo.algorithms.advantages import compute_gae, length_adaptive_lambda
from vrpo.config import CriticConfig, GenerationConfig
from vrpo.critics.bayesian import BayesianCritic
from vrpo.critics.value_model import ValueModel
from vrpo.data.text import encode, spans
from vrpo.models.forward import policy_forward
from vrpo.models.loading import new_llama, save_model
from vrpo.rewards.experience import token_rewards
from vrpo.rewards.noise import confusion
from vrpo.rollout.conversation import converse, replies
from vrpo.rollout.engines.transformers import generate
from vrpo.rollout.sampler import new_sampler
from vrpo.rollout.samples import PolicySamples
from vrpo.tasks.dialogue.task import DialogueTask
from vrpo.tasks.dialogue.task import new_tokenizer as new_dialogue_tokenizer
from vrpo.tasks.math.chain import new_tokenizer

SETTINGS = {"temperature": 1.0, "gamma": 1.0, "lam": 0.9}


@pytest.fixture(scope="module")
def models():
    tokenizer = new_tokenizer()
    policy = new_llama(tokenizer, hidden_size=16, layers=1, heads=2, seed=0)
    critic = ValueModel.from_policy(policy, shared=False, depth=1, latent_size=4, seed=0)
    rollout = generate(
        policy,
        encode(tokenizer, ["3+4.:", "1+2+3.:"]),
        max_new_tokens=6,
        temperature=1.0,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        seed=0,
    )
    return tokenizer, policy, critic.eval(), rollout


@pytest.fixture(scope="module")
def dialogue():
    """Dialogues of two turns, drawn at half the temperature."""
    tokenizer = new_dialogue_tokenizer()
    task = DialogueTask(tokenizer, max_turns=2)
    problems = task.generate(3, 0, set())
    policy = new_llama(tokenizer, hidden_size=16, layers=1, heads=2, seed=1)
    prompts = encode(tokenizer, [task.prompt(row["question"]) for row in problems])
    settings = GenerationConfig(max_new_tokens=5, max_turns=2, temperature=0.5)
    rollout = converse(new_sampler(policy, tokenizer, settings), prompts, replies(task.environment, problems), seed=3)
    return tokenizer, policy, rollout


def test_each_kind_is_shown_and_unscored_ones_are_not() -> None:
    observed, clean = [1.0, 1.0, 0.0, 1.0, None, 0.0], [0.0, 1.0, 1.0, 0.0, 1.0, 0.0]
    assert choose(observed, clean) == [1, 2, 0, 3, 5]
    assert choose([1.0] * 5, [1.0] * 5) == [0, 1]
    assert choose([0.3, -0.7, 0.3], [0.0, 1.0, 1.0], middle=-0.2) == [2, 1, 0]  # corrected rewards


def test_a_reward_of_one_half_is_not_right_here_and_wrong_in_the_rates(models) -> None:
    tokenizer, policy, _, rollout = models
    assert confusion([1.0, 0.5], [0.5, 0.5])["false_positive_rate"] == 0.75  # both are wrong there
    responses = read_tokens(policy, None, tokenizer, rollout, [1.0, 0.5], [0.5, 0.5], **SETTINGS)
    assert [response["kind"] for response in responses] == ["wrong, but rewarded", "wrong and not rewarded"]
    assert choose([1.0, 0.5, 1.0], [0.5, 0.5, 0.6]) == [2, 0, 1]


@pytest.mark.parametrize("train", [{"length_adaptive_alpha": 0.3}, {"kl_in": "reward", "kl_coefficient": 0.5, "gae_lambda": 0.6}])
def test_advantages_shown_are_not_others_than_those_trained_on(models, train: dict, tmp_path, monkeypatch) -> None:
    """With a lambda for each response, and with KL penalties in the reward."""
    monkeypatch.chdir(tmp_path)
    tokenizer, policy, critic, rollout = models
    cold = new_llama(tokenizer, hidden_size=16, layers=1, heads=2, seed=5)
    save_model(cold, tokenizer, HERE.sft)
    mask, scores = rollout.response_mask, [1.0, 0.0]
    rewards = torch.zeros(mask.shape)
    rewards[0, int(rollout.lengths[0]) - 1] = 1.0
    if "kl_in" in train:
        with torch.no_grad():
            rewards -= 0.5 * (rollout.logprobs - policy_forward(cold, rollout, 1.0).logprobs) * mask
    lam = length_adaptive_lambda(mask, 0.3) if "length_adaptive_alpha" in train else 0.6
    expected = compute_gae(rewards, critic.read(rollout), mask, 1.0, lam)
    drawn = PolicySamples([], [], [rollout], scores)
    shown = evaluate._tokens(Params(train=train), policy, critic, tokenizer, drawn, scores, scores, {"flip_rates": None}, HERE)
    for row, response in enumerate(shown):
        assert response["advantages_observed"] == pytest.approx(expected[row][mask[row]].tolist(), abs=2e-4)


def test_advantages_shown_of_a_regulated_run_lean_on_its_critic(models) -> None:
    tokenizer, policy, _, rollout = models
    critic = BayesianCritic(CriticConfig(), policy, 0).model
    critic.head.finished.weights[-1] = 0.3  # what it says of every finished response
    scores, mask = [1.0, 0.0], rollout.response_mask
    shown = read_tokens(policy, critic, tokenizer, rollout, scores, scores, **SETTINGS, gain=0.25)
    rewards = token_rewards([0.25 * score + 0.75 * 0.3 for score in scores], mask)
    expected = compute_gae(rewards, critic.read(rollout), mask, 1.0, 0.9)
    for row, response in enumerate(shown):
        assert response["advantages_observed"] == pytest.approx(expected[row][mask[row]].tolist(), abs=1e-4)


def test_numbers_are_those_of_the_models(models) -> None:
    tokenizer, policy, critic, rollout = models
    first, second = read_tokens(policy, critic, tokenizer, rollout, [1.0, 0.0], [0.0, 0.0], **SETTINGS)
    assert (first["kind"], second["kind"]) == ("wrong, but rewarded", "wrong and not rewarded")
    assert first["prompt"] == "3+4.:"
    length = int(rollout.lengths[0])
    assert {len(first[name]) for name in ("tokens", "values", "entropy", "surprisal", "advantages_clean")} == {length}
    assert first["surprisal"] == pytest.approx((-rollout.logprobs[0, :length]).tolist(), abs=2e-4)
    rewards = torch.zeros(rollout.responses.shape)
    rewards[0, length - 1] = 1.0
    expected = compute_gae(rewards, critic.read(rollout), rollout.response_mask, 1.0, 0.9)[0, :length]
    assert first["advantages_observed"] == pytest.approx(expected.tolist(), abs=1e-4)
    assert first["advantages_clean"] != first["advantages_observed"] and second["advantages_clean"] == second["advantages_observed"]
    assert "values" not in read_tokens(policy, None, tokenizer, rollout, [1.0, 0.0], [0.0, 0.0], **SETTINGS)[0]


def test_numbers_of_a_dialogue_are_those_of_its_own_tokens(dialogue) -> None:
    """At the temperature it was drawn at, with the reward on the assistant's last token, not on the last of the text."""
    tokenizer, policy, rollout = dialogue
    mask, scores = rollout.response_mask, [1.0] * len(rollout)
    critic = ValueModel.from_policy(policy, shared=False, depth=0, latent_size=4, seed=0).eval()
    responses = read_tokens(policy, critic, tokenizer, rollout, scores, scores, temperature=0.5, gamma=1.0, lam=0.9)
    for row, response in enumerate(responses):
        places = mask[row].nonzero().flatten()
        assert int(places[-1]) >= len(places)  # the user spoke in between
        assert response["surprisal"] == pytest.approx((-rollout.logprobs[row, places]).tolist(), abs=2e-4)
        assert response["tokens"] == [tokenizer.decode([int(token)]) for token in rollout.responses[row, places]]
        values = critic.read(rollout)[row, places]  # GAE over the policy's own tokens, as if the user's were not there
        expected = compute_gae(torch.eye(len(places))[-1:], values[None], torch.ones(1, len(places), dtype=torch.bool), 1.0, 0.9)[0]
        assert response["advantages_clean"] == pytest.approx(expected.tolist(), abs=1e-4)


def test_colours_say_size_and_sign() -> None:
    assert shade(0.0, (0, 114, 178), True) == shade(-1.0, (0, 114, 178), False) == "#ffffff"
    assert shade(-1.0, (0, 114, 178), True) == shade(-3.0, (0, 114, 178), True) != shade(1.0, (0, 114, 178), True)
    response = {"prompt": "1+1.:", "kind": "right and rewarded", "tokens": ["2", "."], "entropy": [0.5, 0.25], "surprisal": [0.0, 0.0]}
    shown = heat_map(response, scales_of([response]))
    assert [strip["label"] for strip in shown["strips"]] == ["entropy", "surprisal"]
    assert [cell["number"] for cell in shown["strips"][0]["cells"]] == ["0.500", "0.250"]


def test_rewards_of_turns_are_advantages_at_the_ends_of_turns(dialogue) -> None:
    tokenizer, policy, rollout = dialogue
    critic = ValueModel.from_policy(policy, shared=False, depth=0, latent_size=4, seed=0).eval()
    turns = [spans(mask) for mask in rollout.response_mask]
    observed, clean = ([[value] * len(found) for found in turns] for value in (0.3, 0.5))
    responses = read_tokens(policy, critic, tokenizer, rollout, observed, clean, temperature=0.5, gamma=1.0, lam=1.0)
    for row, response in enumerate(responses):
        places = rollout.response_mask[row].nonzero().flatten().tolist()
        steps = [sum(turn.stop > place for turn in turns[row]) for place in places]
        assert len(set(steps)) == 2  # turns to come
        gaps = [c - o for c, o in zip(response["advantages_clean"], response["advantages_observed"], strict=True)]
        assert gaps == pytest.approx([0.2 * step for step in steps], abs=2e-4)
        assert (response["observed"], response["clean"]) == pytest.approx((0.6, 1.0)) and response["kind"] == "right and rewarded"
