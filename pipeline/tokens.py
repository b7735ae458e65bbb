"""Single responses token by token: what the policy and the value model thought of them. For the report's heat maps and the notebooks."""

from __future__ import annotations

from typing import Any

PER_KIND = 2  # responses of each kind: right or wrong, rewarded or not
KINDS = {(True, True): "right and rewarded", (True, False): "right, not rewarded", (False, True): "wrong, but rewarded"}
KINDS |= {(False, False): "wrong and not rewarded"}


def choose(observed: list[float | None], clean: list[float | None]) -> list[int]:
    """Places of the first few responses of each kind, from their observed and clean scores."""
    found: dict[str, list[int]] = {kind: [] for kind in KINDS.values()}
    for place, scores in enumerate(zip(observed, clean, strict=True)):
        if None not in scores:
            found[KINDS[scores[1] >= 0.5, scores[0] >= 0.5]].append(place)
    return [place for places in found.values() for place in places[:PER_KIND]]


def read_tokens(
    policy: Any, critic: Any, tokenizer: Any, rollout: Any, observed: list[float], clean: list[float], gamma: float, lam: float
) -> list[dict[str, Any]]:
    """One dictionary a response of `rollout`, with one number a token in each list.

    Args:
        policy, tokenizer: causal LM and its tokenizer.
        critic: value model; None where the method has none.
        observed, clean: rewards at the end of each response.
        gamma, lam: of the advantages.

    Returns:
        prompt, tokens (text), kind, observed, clean; entropy of the distribution each token was drawn from and its surprisal, in nats;
        with a critic also `values`, V of the prefix before the token, and generalised advantages under either reward.
    """
    import torch

    from vrpo.advantages import compute_gae
    from vrpo.forward import policy_forward

    mask = rollout.response_mask
    with torch.no_grad():
        output = policy_forward(policy, rollout.to(policy.device), temperature=1.0)
    numbers = {"entropy": output.entropy.cpu(), "surprisal": -output.logprobs.cpu()}
    if critic is not None:
        numbers["values"] = critic.read(rollout)
        last = torch.arange(mask.shape[1]) == rollout.lengths[:, None] - 1
        for name, scores in (("observed", observed), ("clean", clean)):
            rewards = last * torch.tensor(scores)[:, None]
            numbers[f"advantages_{name}"] = compute_gae(rewards, numbers["values"], mask, gamma, lam)
    responses = []
    for row in range(len(rollout)):
        ids = rollout.responses[row][mask[row]].tolist()
        responses.append(
            {
                "prompt": tokenizer.decode(rollout.prompts[row][rollout.prompt_mask[row]], skip_special_tokens=True),
                "tokens": [tokenizer.decode([token]) for token in ids],
                "kind": KINDS[clean[row] >= 0.5, observed[row] >= 0.5],
                "observed": observed[row],
                "clean": clean[row],
                **{name: [round(value, 4) for value in values[row][mask[row]].tolist()] for name, values in numbers.items()},
            }
        )
    return responses


STRIPS = {  # each list of numbers: its name for people, its colour, whether it goes both ways from 0
    "values": ("value", (0, 114, 178), False),
    "advantages_clean": ("advantage, clean reward", (0, 114, 178), True),
    "advantages_observed": ("advantage, observed reward", (0, 114, 178), True),
    "entropy": ("entropy", (130, 90, 160), False),
    "surprisal": ("surprisal", (130, 90, 160), False),
}
NEGATIVE = (213, 94, 0)


def heat_map(response: dict[str, Any], scales: dict[str, float]) -> dict[str, Any]:
    """A response as strips of coloured tokens; `scales` is the number that gets the full colour, by strip (see `scales_of`)."""
    strips = []
    for name, (label, color, signed) in STRIPS.items():
        if name in response:
            cells = [
                {"token": token.replace("\n", "↵"), "number": f"{value:.3f}", "color": shade(value / scales[name], color, signed)}
                for token, value in zip(response["tokens"], response[name], strict=True)
            ]
            strips.append({"label": label, "cells": cells})
    return {"prompt": response["prompt"], "kind": response["kind"], "strips": strips}


def scales_of(responses: list[dict[str, Any]]) -> dict[str, float]:
    """The largest size of each strip's numbers, so that colours compare between responses; 1 for values, which are success rates."""
    largest = {name: [abs(value) for response in responses for value in response.get(name, [])] for name in STRIPS}
    advantages = max(largest["advantages_clean"] + largest["advantages_observed"], default=1.0) or 1.0
    scales = {name: max(values, default=1.0) or 1.0 for name, values in largest.items()}
    return scales | {"values": 1.0, "advantages_clean": advantages, "advantages_observed": advantages}


def shade(share: float, color: tuple[int, int, int], signed: bool) -> str:
    """White at 0, the colour at 1, and where `signed` orange at -1; kept light enough for dark text."""
    strength = 0.75 * min(abs(share), 1.0) if signed or share > 0 else 0.0
    tone = NEGATIVE if signed and share < 0 else color
    return "#" + "".join(f"{round(255 + (channel - 255) * strength):02x}" for channel in tone)
