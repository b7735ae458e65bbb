"""The algorithms by the names that `methods` and `Trainer(method=...)` know."""

from __future__ import annotations

from vrpo.algorithms.dr_grpo import DrGRPO
from vrpo.algorithms.grpo import GRPO
from vrpo.algorithms.oracle import Oracle
from vrpo.algorithms.ppo import PPO
from vrpo.algorithms.reinforce import Reinforce
from vrpo.algorithms.reinforce_pp import ReinforcePP
from vrpo.algorithms.rloo import RLOO
from vrpo.algorithms.vrpo import VRPO
from vrpo.config import GROUPED, TrainConfig
from vrpo.errors import UserError

ALGORITHMS = {"ppo": PPO, "vrpo": VRPO, "oracle": Oracle, "grpo": GRPO, "dr_grpo": DrGRPO, "rloo": RLOO}
ALGORITHMS |= {"reinforce_pp": ReinforcePP, "reinforce": Reinforce}


def find_algorithm(name: str, config: TrainConfig) -> type:
    """The algorithm of this name, for a run with these parameters.

    Raises:
        UserError: there is none, or it cannot run so.
    """
    if name not in ALGORITHMS:
        raise UserError(f"method = {name!r}: no such method; use one of {', '.join(ALGORITHMS)}")
    if name in GROUPED and config.group_size == 1:
        raise UserError(f"train.group_size = 1: {name} compares the responses to one prompt with each other; use 2 or more")
    return ALGORITHMS[name]
