"""Single responses token by token: what the policy and the value model thought of them. `heat_maps.py` draws it."""

from __future__ import annotations

from typing import Any

PER_KIND = 2  # responses of each kind: right or wrong, rewarded or not
KINDS = {(True, True): "right and rewarded", (True, False): "right, not rewarded", (False, True): "wrong, but rewarded"}
KINDS |= {(False, False): "wrong and not rewarded"}


def choose(observed: list[float | None], clean: list[float | None], middle: float = 0.5) -> list[int]:
    """Places of the first few responses of each kind, from their observed and clean scores; observed above `middle` is rewarded."""
    found: dict[str, list[int]] = {kind: [] for kind in KINDS.values()}
    for place, scores in enumerate(zip(observed, clean, strict=True)):
        if None not in scores:
            found[_kind(*scores, middle)].append(place)
    return [place for places in found.values() for place in places[:PER_KIND]]


def _kind(observed: float, clean: float, middle: float) -> str:
    return KINDS[clean > 0.5, observed > middle]  # as `vrpo.rewards.noise.confusion` has it


def read_tokens(
    policy: Any,
    critic: Any,
    tokenizer: Any,
    rollout: Any,
    observed: list[Any],
    clean: list[Any],
    *,
    temperature: float,
    gamma: float,
    lam: Any,
    middle: float = 0.5,
    penalty: Any = 0.0,
    gain: float | None = None,
) -> list[dict[str, Any]]:
    """One dictionary a response of `rollout`, with one number a token in each list.

    Args:
        policy, tokenizer: causal LM and its tokenizer.
        critic: value model; None where the method has none.
        observed, clean: rewards of each response, one number or one a turn.
        temperature: at which the responses were drawn.
        gamma, lam: of the advantages (see `compute_gae`).
        middle: see `choose`.
        penalty: taken off either reward, [B, T].
        gain: of the regulated methods, share of the last reward that the critic leaves it; None: another method.

    Returns:
        prompt, tokens (text), kind, observed, clean; entropy of the distribution each token was drawn from and its surprisal, in nats;
        with a critic also `values`, V of the prefix before the token, and generalised advantages under either reward.
    """
    import torch

    from vrpo.algorithms.advantages import compute_gae
    from vrpo.algorithms.regulated import estimated_rewards
    from vrpo.critics.bayesian import finished
    from vrpo.models.forward import policy_forward
    from vrpo.rewards.calling import totals
    from vrpo.rewards.experience import token_rewards

    mask = rollout.response_mask
    with torch.no_grad():
        output = policy_forward(policy, rollout.to(policy.device), temperature=temperature)
        final_values = None if gain is None else finished(critic, rollout.to(critic.backbone.device))[2].cpu()
    numbers = {"entropy": output.entropy.cpu(), "surprisal": -output.logprobs.cpu()}
    if critic is not None:
        numbers["values"] = critic.read(rollout)
        for name, scores in (("observed", observed), ("clean", clean)):
            rewards = token_rewards(scores, mask)
            if gain is not None:
                rewards = estimated_rewards(rewards, final_values, mask, gain)
            numbers[f"advantages_{name}"] = compute_gae(rewards - penalty, numbers["values"], mask, gamma, lam)
    responses, observed, clean = [], totals(observed), totals(clean)
    for row in range(len(rollout)):
        ids = rollout.responses[row][mask[row]].tolist()
        responses.append(
            {
                "prompt": tokenizer.decode(rollout.prompts[row][rollout.prompt_mask[row]], skip_special_tokens=True),
                "tokens": [tokenizer.decode([token]) for token in ids],
                "kind": _kind(observed[row], clean[row], middle),
                "observed": observed[row],
                "clean": clean[row],
                **{name: [round(value, 4) for value in values[row][mask[row]].tolist()] for name, values in numbers.items()},
            }
        )
    return responses
