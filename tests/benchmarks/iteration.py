"""An iteration of VRPO against one of our own PPO on the tiny model, default settings, median of 20 of each in turn."""

from __future__ import annotations

from typing import Any

from tests.benchmarks.setup import alternate, our_trainer, problems, ratio_claim, spread, timed, tiny_model, verify


def run(quick: bool) -> dict[str, Any]:
    model, tokenizer = tiny_model(20 if quick else 120)
    rows, rounds = problems(1024), 3 if quick else 20

    def reward(prompts, responses, answer, **columns):
        return verify(responses, answer)

    runs = {}
    for method in ("vrpo", "ppo"):
        runs[method], _ = our_trainer(method, model, tokenizer, reward, rounds + 3, rows)
        runs[method].iteration = 0

    def advance(method: str) -> float:
        trainer = runs[method]
        trainer.iteration += 1
        return timed(lambda: trainer.step(trainer.iteration))

    for method in runs:
        advance(method)
    for trainer in runs.values():
        trainer.timer.seconds.clear()
    measured = alternate({method: lambda method=method: advance(method) for method in runs}, rounds)
    medians = {method: spread(values) for method, values in measured.items()}
    ratio = medians["vrpo"]["median"] / medians["ppo"]["median"]
    claim = ratio_claim("VRPO iteration over PPO's", measured["vrpo"], measured["ppo"], 1.15, at_most=True)
    return {
        "seconds": medians,
        "ratio_of_medians": ratio,
        "seconds_by_phase": {method: dict(trainer.timer.seconds) for method, trainer in runs.items()},
        "claims": [claim | {"met": ratio <= 1.15, "measured": f"{ratio:.2f}x (medians of {rounds})", "ratio": ratio}],
    }
