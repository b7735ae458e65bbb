"""Critic metrics, the Monte-Carlo check and the failure signatures."""

import math

import pytest
import torch

from vrpo.config import GenerationConfig
from vrpo.critics.value_model import ValueModel
from vrpo.data.text import encode
from vrpo.metrics.critic import correlation, explained_variance
from vrpo.metrics.health import health_warnings
from vrpo.metrics.monte_carlo import MonteCarloCheck, monte_carlo_check
from vrpo.rollout.sampler import new_sampler


def test_explained_variance() -> None:
    returns, mask = torch.tensor([[1.0, 0.0, 1.0, 99.0]]), torch.tensor([[True, True, True, False]])
    assert explained_variance(returns.clone(), returns, mask) == 1.0
    assert explained_variance(torch.full((1, 4), 0.3), returns, mask) == pytest.approx(0.0, abs=1e-6)
    assert explained_variance(1 - returns, returns, mask) == pytest.approx(-3.0)
    assert math.isnan(explained_variance(returns, torch.ones(1, 4), mask))


def test_correlation() -> None:
    a = torch.tensor([1.0, 2.0, 4.0])
    assert correlation(a, 3 * a - 5) == pytest.approx(1.0)
    assert correlation(a, -a) == pytest.approx(-1.0)
    assert math.isnan(correlation(a, torch.ones(3)))


def test_slope_is_the_scale_of_values() -> None:
    truth = torch.tensor([0.0, 0.2, 0.5, 1.0])
    assert MonteCarloCheck(0.4 * truth + 0.3, truth).slope == pytest.approx(0.4)  # what flips with J = 0.4 leave of exact values
    assert MonteCarloCheck(0.4 * truth + 0.3, truth).correlation == pytest.approx(1.0)
    assert MonteCarloCheck(torch.ones(4), truth).slope == pytest.approx(0.0, abs=1e-12)
    assert math.isnan(MonteCarloCheck(truth, torch.ones(4)).slope)


SAMPLING = {"max_new_tokens": 6, "max_turns": 2}


def check(policy, tokenizer, problems, score, critic=None, batch_size=256, **options) -> MonteCarloCheck:
    critic = critic or ValueModel.from_policy(policy, shared=False, depth=0, latent_size=1, seed=0)
    prompts = encode(tokenizer, [row["prompt"] for row in problems])
    sampler = new_sampler(policy, tokenizer, GenerationConfig(**SAMPLING, batch_size=batch_size))
    return monte_carlo_check(sampler, critic, prompts, score, seed=0, **options)


def test_monte_carlo_check_scores_prefix_and_continuation_together(policy, tokenizer, problems) -> None:
    seen = []

    def score(responses):
        seen.extend(responses)
        return [float(len(response) > 4) for response in responses]

    found = check(policy, tokenizer, problems[:12], score, samples=5)
    assert len(seen) == 60 and found.values.shape == found.monte_carlo.shape == (12,)
    assert torch.allclose(found.values, torch.full((12,), 0.5))  # an untrained head says one half
    longer = torch.tensor([[len(r) > 4 for r in seen[i : i + 5]] for i in range(0, 60, 5)]).float().mean(1)
    assert torch.equal(found.monte_carlo, longer) and longer.sum() > 0
    shared = [sum(len(set(column)) == 1 for column in zip(*seen[i : i + 5], strict=False)) for i in range(0, 60, 5)]
    assert max(shared) >= 4  # samples of one state share its prefix


def test_continuations_end_where_the_policy_would_have_ended(policy, tokenizer, problems) -> None:
    """A state four tokens into a response of six has two to go, not six anew."""
    lengths = []

    def score(responses):
        lengths.extend(len(tokenizer(response, add_special_tokens=False)["input_ids"]) for response in responses)
        return [1.0] * len(responses)

    check(policy, tokenizer, problems, score, samples=5)
    assert max(lengths) == SAMPLING["max_new_tokens"]


def test_states_that_nobody_can_score_are_left_out(policy, tokenizer, problems) -> None:
    def score(responses):
        return [None if i < 5 else float(len(response) > 4) for i, response in enumerate(responses)]

    found = check(policy, tokenizer, problems[:12], score, samples=5)
    assert found.monte_carlo.shape == found.values.shape == (11,) and found.monte_carlo.isfinite().all()


@pytest.mark.parametrize("dialogue", [False, True])
def test_shares_and_batches_of_a_monte_carlo_check_are_the_whole(policy, tokenizer, problems, dialogue: bool) -> None:
    """Each process does its states, with as many rows together as `batch_size` allows."""
    if dialogue:
        tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}.{% endfor %}"
    options = {"samples": 3, "reply": (lambda place, turns: "1+" if len(turns) < 2 else None) if dialogue else None}
    try:
        parts = [
            check(policy, tokenizer, problems[rows.start : rows.stop], lengths, places=rows, batch_size=2, **options)
            for rows in (range(5), range(5, 5), range(5, 9))
        ]
        whole = check(policy, tokenizer, problems[:9], lengths, **options)
    finally:
        tokenizer.chat_template = None
    joined = MonteCarloCheck.concatenate(parts)
    assert torch.equal(joined.monte_carlo, whole.monte_carlo) and len(whole.monte_carlo.unique()) > 3
    assert torch.allclose(joined.values, whole.values)


def lengths(responses):
    return [float(len(response)) for response in responses]


def test_a_state_is_worth_what_is_earned_after_it(policy, tokenizer, problems) -> None:
    whole, discounted = (
        check(policy, tokenizer, problems[:12], lambda rs: [1.0] * len(rs), samples=3, gamma=gamma) for gamma in (1.0, 0.5)
    )
    assert whole.monte_carlo.eq(1.0).all() and discounted.monte_carlo.min() < 0.5


def test_monte_carlo_check_reads_the_value_of_the_state_it_continues(policy, tokenizer, problems) -> None:
    prompts = encode(tokenizer, [row["prompt"] for row in problems[:12]])
    asked, sampler = [], new_sampler(policy, tokenizer, GenerationConfig(**SAMPLING))
    sample = sampler.sample

    def recorded(rows, **options):
        asked.append(rows)
        return sample(rows, **options)

    class Counter:
        """A critic whose value is the number of response tokens so far."""

        def read(self, rollout, batch_size):
            return torch.arange(rollout.responses.shape[1]).float().expand(len(rollout), -1)

    sampler.sample = recorded
    check = monte_carlo_check(sampler, Counter(), prompts, lambda responses: [1.0] * len(responses), samples=2, seed=0)
    kept = [len(state) - len(prompt) for state, prompt in zip(asked[1][::2], prompts, strict=True)]
    assert check.values.tolist() == kept and len(set(kept)) > 2


def rows(**series) -> list[dict[str, float]]:
    length = max(map(len, series.values()))
    return [{"iteration": i} | {key.replace("__", "/"): values[i] for key, values in series.items()} for i in range(length)]


@pytest.mark.parametrize(
    ("history", "check"),
    [
        (rows(critic__ev_observed=[0.01] * 5), "dead critic"),
        (rows(critic__ev_observed=[0.01] * 4 + [0.2]), None),
        (rows(critic__ev_observed=[0.01] * 5, critic__gain=[1.0, 0.7, 0.9, 0.5, 0.6]), "critic without skill"),
        (rows(critic__ev_observed=[0.01] * 5, critic__gain=[1.0, 0.7, 0.9, 0.1, 0.6]), None),  # much noise leaves little to explain
        (rows(length__inflation=[1.0, 1.6]), "length inflation"),
        (rows(validation__accuracy=[0.5, 0.8, 0.6]), "accuracy collapse"),
        (rows(validation__accuracy=[0.5, 0.8, 0.75]), None),
        (rows(critic__kl=[0.3], critic__mse=[0.2], critic__active_units=[4.0]), "latent KL dominates"),
        (rows(critic__kl=[0.0], critic__mse=[0.2], critic__active_units=[0.0]), "latent collapse"),
        (rows(critic__kl=[0.01], critic__mse=[0.2], critic__active_units=[4.0], length__inflation=[1.1]), None),
        (rows(reward__observed=[0.5] * 5 + [0.6] * 5, reward__clean=[0.5] * 5 + [0.4] * 5), "reward hacking"),
        (rows(reward__observed=[0.5] * 5 + [0.6] * 4, reward__clean=[0.5] * 5 + [0.4] * 4), None),  # too few iterations to tell
        (rows(reward__observed=[0.5] * 5 + [0.6] * 5, reward__clean=[0.5] * 5 + [0.6] * 5), None),
        (rows(reward__observed=[0.6] * 5 + [0.5] * 5, reward__clean=[0.6] * 5 + [0.4] * 5), None),  # both fall: not gamed
        ([], None),
    ],
)
def test_failure_signatures(history, check) -> None:
    assert [warning.check for warning in health_warnings(history)] == ([check] if check else [])
    assert all("lower" in w.message or "train" in w.message for w in health_warnings(history))  # each names a cure
