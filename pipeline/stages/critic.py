"""The critic bench: fit a value model to cold-start rollouts with noisy returns and hold it against Monte-Carlo values, apart from RL.

Seconds a configuration; recipes are chosen here before RL time is spent. The rollouts are those of the value warm-up
(`train.critic.warmup_rollouts`), the check is on validation problems. Where the task's values are known, the policy's gradient is held
against the clean exact one too; of methods without a critic, this alone.
"""

from __future__ import annotations

from typing import Any

from pipeline.params import Params
from pipeline.stages import stage
from pipeline.workspace import HERE, Workspace
from vrpo.errors import UserError


def run(params: Params, method: str, seed: int, record: Any, workspace: Workspace = HERE) -> dict[str, Any]:
    """Fit one critic; returns its correlation with Monte-Carlo values, errors and seconds, and the cosine of the policy's gradient."""
    from pipeline.domains import load_oracle
    from pipeline.stages.train import new_trainer
    from vrpo.training.gradient import gradient_cosine

    trainer = new_trainer(params, method, seed, workspace)
    success = load_oracle(params, trainer.tokenizer)
    if trainer.critic is None and success is None:
        raise UserError(f"--method {method}: has no value model to try, and nobody knows this task's values; use ppo or vrpo")
    row = trainer.warm_up()
    record.metrics(row, step=0)
    metrics = {name: float(value) for name, value in row.items() if name.startswith(("critic/", "reward/", "validation/"))}
    metrics |= {"rollouts": trainer.rollouts, "seconds": {name: round(value, 2) for name, value in trainer.timer.seconds.items()}}
    return metrics | ({} if success is None else {"gradient_cosine": gradient_cosine(trainer, success)})


if __name__ == "__main__":
    stage.main("critic", run, __doc__, cell=True)
