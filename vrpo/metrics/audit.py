"""What is a reward worth before anything is trained on it? An audit of its own scores of a few hundred responses.

It asks the reward about the same responses more than once, and compares what it says with what somebody checked:

- *repeatability*: how much of the scores' variance is within a response, scored again, and how much between responses;
- *J* = TPR - FPR (Youden): what is left of the difference between right and wrong. Scores of more than two values need no threshold for it:
  J is 2 AUC - 1, AUC the chance that a right response scores above a wrong one (ties count half), which for two values is TPR - FPR;
- *rollouts*: 1 / rho^2, with rho the correlation of the score and being right: about how many times as many rollouts give the policy's gradient
  the signal over noise of clean rewards. Where half of the responses are right and errors go either way alike, that is 1 / J^2;
- *length*: how the score moves with a response's length, as it stands and among responses that are equally right.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from vrpo.errors import UserError
from vrpo.metrics import estimates
from vrpo.metrics.estimates import Array, Estimate, Scorings
from vrpo.rewards.calling import Reward, check_reward, plain_reward, require_scores, totals
from vrpo.rewards.corrections import FlipRates, estimate_rates
from vrpo.rewards.experience import repeats as occurrences
from vrpo.seeding import derive_seed

WIDTH = 110  # of the advice in the table, in characters
STUDY = "in our noise study (docs/results.md)"


@dataclass(frozen=True)
class Audit:
    """What `audit` found; a figure that cannot be had is None. Scores are in the reward's own units.

    Attributes:
        prompts, responses: how many different ones.
        repeats: scorings of each response.
        unscored: share of the scorings that gave None.
        checked, right: responses that somebody checked, and those of them that are right.
        flips: chance that two scorings of a response fall on different sides: of the middle where there are two scores, else of the median.
        within, between: variance of the scores of one response; variance of the responses' expected scores.
        reliability: between / (between + within), 1 where a response always gets the same score.
        true_positive_rate, false_positive_rate: share of right and of wrong responses that get the higher of two scores; None where there
            are more than two.
        youden: J, see above.
        rollouts: times as many rollouts as with clean rewards, see above; its upper bound is infinite where J may be 0.
        length_deviation: standard deviation of the responses' lengths, in characters.
        length: what a standard deviation of length adds to the score.
        length_at_equal_correctness: the same among right and among wrong responses.
        worth: what being right adds at equal length.
        flip_rates: for `vrpo.rewards.corrections`; None unless scores are 0 and 1.
        points: of each response length, mean score and whether it is right (1, 0 or NaN).
    """

    prompts: int
    responses: int
    repeats: int
    unscored: float
    checked: int
    right: int
    flips: Estimate | None
    within: Estimate | None
    between: Estimate | None
    reliability: Estimate | None
    true_positive_rate: Estimate | None
    false_positive_rate: Estimate | None
    youden: Estimate | None
    rollouts: Estimate | None
    length_deviation: float
    length: Estimate | None
    length_at_equal_correctness: Estimate | None
    worth: Estimate | None
    flip_rates: FlipRates | None
    points: tuple[Array, Array, Array] = field(repr=False, compare=False)

    @property
    def figures(self) -> dict[str, Estimate]:
        """The figures that could be had, by what they are in words."""
        named = {
            "two scorings of a response disagree": self.flips,
            "variance within a response": self.within,
            "variance between responses": self.between,
            "reliability of one scoring": self.reliability,
            "right responses rewarded (TPR)": self.true_positive_rate,
            "wrong responses rewarded (FPR)": self.false_positive_rate,
            "J, what is left of right - wrong": self.youden,
            "rollouts, times those of clean rewards": self.rollouts,
            f"score of {self.length_deviation:.3g} characters more": self.length,
            "the same at equal correctness": self.length_at_equal_correctness,
            "score of being right, at equal length": self.worth,
        }
        return {name: estimate for name, estimate in named.items() if estimate is not None}

    @property
    def advice(self) -> list[str]:
        """What to expect and what to do, a few sentences each."""
        return [*_signal(self), *_errors(self), *_length(self)]

    def __str__(self) -> str:
        times = "once" if self.repeats == 1 else f"{self.repeats} times"
        head = f"{self.responses} responses to {self.prompts} prompts, scored {times}; {self.checked} checked, {self.right} of them right"
        width = max(map(len, ["", *self.figures]))
        rows = [f"{name:<{width}}  {estimate}" for name, estimate in self.figures.items()]
        advice = [textwrap.fill(text, WIDTH, initial_indent="- ", subsequent_indent="  ") for text in self.advice]
        return "\n".join([head, "", f"{'':<{width}}  estimate [95 % interval]", *rows, "", *advice])


def audit(
    reward: Reward,
    prompts: Sequence[Any],
    responses: Sequence[str],
    *,
    checked: Sequence[Any] | None = None,
    repeats: int = 2,
    seed: int = 0,
    **columns: Sequence[Any],
) -> Audit:
    """Measure a reward on responses of yours, say 200 of them to 50 prompts or more, half of them checked.

    Args:
        reward: as for `vrpo.training.trainer.Trainer`. The r-th scoring is asked as iteration r, so that noise which depends on `step` is drawn anew.
        prompts, responses: N each; several responses to one prompt are welcome.
        checked: of each response whether it is right: True or False (numbers: right above 0.5), None where nobody checked.
        repeats: scorings of each response; 1 says nothing of repeatability.
        seed: of torch's generator while the reward is asked.
        columns: what else the reward takes, one entry a response each.

    Raises:
        UserError: lists of different lengths, one prompt only, a constant reward, or checked responses that are all right or all wrong.
    """
    checked = [None] * len(prompts) if checked is None else checked
    lists = {"prompts": prompts, "responses": responses, "checked": checked, **columns}
    if len({len(values) for values in lists.values()}) > 1:
        found = ", ".join(f"{name} {len(values)}" for name, values in lists.items())
        raise UserError(f"the audit's lists differ in length: {found}; give one entry a response")
    if repeats < 1:
        raise UserError(f"repeats = {repeats}: a response is scored once at least; twice to see how repeatable that is")
    if len(different := sorted({repr(prompt) for prompt in prompts})) < 2:
        raise UserError(f"responses to {len(different)} prompts: an audit needs two at least, and 50 to say much; add prompts")
    check_reward(reward, columns)
    clusters = np.searchsorted(different, [repr(prompt) for prompt in prompts])
    right = np.array([math.nan if value is None else float(value > 0.5) for value in checked])
    known = ~np.isnan(right)
    if known.any() and right[known].min() == right[known].max():
        raise UserError(
            f"the {known.sum()} checked responses are all {'right' if right[known][0] else 'wrong'}; check some of the other kind"
        )
    scores = _ask(reward, prompts, responses, columns, repeats, seed)
    given = ~np.isnan(scores)
    values = np.unique(scores[given])
    if len(values) == 1:
        raise UserError(f"the reward is {values[0]:g} for every response; a constant teaches nothing: look at what the reward reads")
    split = float(values.mean() if len(values) == 2 else np.median(scores[given]))
    lengths = np.array([len(text) for text in responses], dtype=float)
    deviation = float(lengths.std(ddof=1))
    standardised = (lengths - lengths.mean()) / (deviation or 1.0)
    single = Scorings(scores.ravel(), *(np.repeat(values, repeats) for values in (right, standardised, clusters))).only(given.ravel())
    means = np.ma.masked_invalid(scores).mean(1).filled(math.nan)
    return Audit(
        prompts=len(different),
        responses=len(responses),
        repeats=repeats,
        unscored=float(1 - given.mean()),
        checked=int(known.sum()),
        right=int(right[known].sum()),
        **estimates.repeatability(scores, clusters, split),
        **_correctness(single.only(~np.isnan(single.right)), values, split, deviation > 0),
        length_deviation=deviation,
        length=estimates.slopes(single, single.length)[0] if deviation > 0 else None,
        points=(lengths, means, right),
    )


def plot(found: Audit) -> Any:
    """A `matplotlib` figure: shares with their intervals, and the scores of right, wrong and unchecked responses over length.

    Raises:
        UserError: matplotlib is missing.
    """
    try:
        import matplotlib.pyplot as plt
    except ImportError:
        raise UserError("a plot needs matplotlib: pip install matplotlib") from None
    figure, (left, middle) = plt.subplots(1, 2, figsize=(11, 3.6), layout="constrained")
    shares = {
        "two scorings\ndisagree": found.flips,
        "reliability": found.reliability,
        "TPR": found.true_positive_rate,
        "FPR": found.false_positive_rate,
        "J": found.youden,
    }
    rows = {name: estimate for name, estimate in shares.items() if estimate is not None}
    for place, estimate in enumerate(rows.values()):
        left.plot([estimate.low, estimate.high], [place, place], color="#0072B2", linewidth=4, alpha=0.4)
        left.plot(estimate.value, place, "o", color="#0072B2")
    left.set_yticks(range(len(rows)), rows)
    left.invert_yaxis()
    left.axvline(0, color="#888888", linewidth=0.8)
    left.set(xlim=(min([0.0, *(estimate.low for estimate in rows.values())]) - 0.05, 1.05), title="with 95 % intervals")
    lengths, means, right = found.points
    kinds = {"right": (right == 1, "#0072B2", "o"), "wrong": (right == 0, "#D55E00", "x"), "not checked": (np.isnan(right), "#888888", ".")}
    for name, (places, colour, marker) in kinds.items():
        if places.any():
            middle.scatter(lengths[places], means[places], color=colour, marker=marker, alpha=0.6, label=name)
    middle.set(xlabel="length (characters)", ylabel="mean score", title="score and length")
    middle.legend(frameon=False)
    return figure


def _ask(reward: Reward, prompts: Sequence[Any], responses: Sequence[str], columns: dict[str, Any], repeats: int, seed: int) -> Array:
    """Scores [N, repeats], NaN where the reward gave None."""
    rows = [dict(zip(("prompt", *columns), values, strict=True)) for values in zip(prompts, *columns.values(), strict=True)]
    samples, ask, scores = occurrences(rows), plain_reward(reward), []
    with torch.random.fork_rng(devices=[]):
        for step in range(repeats):
            torch.manual_seed(derive_seed(seed, step, "global"))
            given = totals(ask(list(prompts), list(responses), step=step, samples=samples, **columns))
            require_scores(given, "responses of the audit")
            scores.append([math.nan if score is None else score for score in given])
    return np.array(scores).T


def _correctness(checked: Scorings, values: Array, split: float, varied: bool) -> dict[str, Any]:
    """What only checked scorings tell."""
    names = ("true_positive_rate", "false_positive_rate", "youden", "rollouts", "length_at_equal_correctness", "worth", "flip_rates")
    if len(np.unique(checked.right)) < 2 or len(np.unique(checked.clusters)) < 2:
        return dict.fromkeys(names)
    j = estimates.youden(checked)
    worth, *length = estimates.slopes(checked, checked.right, *([checked.length] if varied else []))
    return {
        **dict(zip(names, estimates.rates(checked, split) if len(values) == 2 else (None, None), strict=False)),
        "youden": j,
        "rollouts": estimates.cost(checked, j),
        "length_at_equal_correctness": length[0] if length else None,
        "worth": worth,
        "flip_rates": estimate_rates(checked.scores.tolist(), checked.right.tolist()) if set(values.tolist()) == {0.0, 1.0} else None,
    }


def _signal(found: Audit) -> list[str]:
    """How much is left, and which method."""
    if found.youden is None:
        least = f", at least {1 / found.reliability.value:.2g} times" if found.reliability and found.reliability.value > 0 else ""
        return [
            f"Nobody checked these responses, so only repeatability limits what the reward costs{least}; check 50 right and 50 wrong ones."
        ]
    if found.youden.low <= 0:
        return [
            f"J may be 0: as far as {found.checked} checked responses tell, the reward need not know right from wrong. Check more of them, and "
            "mend the reward before training: no method learns from what is not there."
        ]
    left = (
        f"About {100 * max(found.youden.value, 0):.0f} % of the difference between right and wrong is left: for the same signal in the policy's gradient "
        f"expect {found.rollouts.value:.2g} times the rollouts of clean rewards [{found.rollouts.low:.2g}, {found.rollouts.high:.2g}]."
    )
    if found.youden.value >= 0.5:
        return [
            f"{left} Any method will do: {STUDY} flips of 0.2 either way, J = 0.6, cost PPO, VRPO, GRPO and REINFORCE 0 to 3 points of accuracy."
        ]
    return [
        f"{left} Choose `regulated`, or `regulated_gradient` if your base model may be usually wrong about a kind of problem: {STUDY} at flips of "
        "0.4 either way, J = 0.2, it ended at 93.5 %, PPO at 87.6, VRPO at 82.3, REINFORCE at 73.2 and GRPO at 69.8 %."
    ]


def _errors(found: Audit) -> list[str]:
    """Are they drawn anew? The squared correlation with being right is at most the reliability; what it lacks of that, errors that stay cost."""
    if found.reliability is None or found.reliability.value <= 0:
        return []
    anew, said = 1 / found.reliability.value, []
    if anew > 1.1:
        four = 4 * found.reliability.value / (1 + 3 * found.reliability.value)  # Spearman and Brown
        said.append(
            f"Scores change from scoring to scoring, which alone costs {anew:.2g} times the rollouts; the mean of four scorings would bring that "
            f"to {1 / four:.2g} times."
        )
    if found.rollouts is not None and math.isfinite(found.rollouts.value) and (stays := found.rollouts.value / anew) > 1.3:
        said.append(
            f"Errors that stay when a response is scored again cost {stays:.2g} times: scoring more often does not help, and what they have in common "
            "will be learned. Read the wrong ones, and mend the reward or its references."
        )
    return said


def _length(found: Audit) -> list[str]:
    """A taste for length is the one bias that ruined every method."""
    equal = found.length_at_equal_correctness
    if equal is None or equal.low <= 0 <= equal.high:
        return []
    liking, worth = ("longer", found.worth.value) if equal.value > 0 else ("shorter", found.worth.value)
    share = f", {100 * abs(equal.value) / worth:.0f} % of what being right pays" if worth > 0 else ""
    return [
        f"It likes {liking} responses: at equal correctness {found.length_deviation:.3g} characters move the score by {abs(equal.value):.2g}{share}. A taste for "
        "length ruined every method in our studies; mend it before training, and watch `length/inflation`."
    ]
