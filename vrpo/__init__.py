"""VRPO and its baselines: PPO with a value model that absorbs reward noise (arXiv 2508.03058).

Names are loaded when first used, so that `import vrpo` costs nothing and a program depends only on the modules it uses.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from vrpo.moved import MODULES, forward

__version__ = "0.1.0"

if TYPE_CHECKING:  # the same names for type checkers, which know nothing of `__getattr__`
    from vrpo.algorithms.advantages import compute_gae as compute_gae
    from vrpo.algorithms.advantages import group_relative_advantages as group_relative_advantages
    from vrpo.algorithms.losses import policy_loss as policy_loss
    from vrpo.config import TrainConfig as TrainConfig
    from vrpo.critics.losses import gaussian_kl as gaussian_kl
    from vrpo.critics.losses import value_loss as value_loss
    from vrpo.critics.semantics import semantic_losses as semantic_losses
    from vrpo.critics.value_model import ValueModel as ValueModel
    from vrpo.rewards.noise import NoiseChannel as NoiseChannel
    from vrpo.training.trainer import Trainer as Trainer

_EXPORTS = {
    "NoiseChannel": "vrpo.rewards.noise",
    "TrainConfig": "vrpo.config",
    "Trainer": "vrpo.training.trainer",
    "ValueModel": "vrpo.critics.value_model",
    "compute_gae": "vrpo.algorithms.advantages",
    "gaussian_kl": "vrpo.critics.losses",
    "group_relative_advantages": "vrpo.algorithms.advantages",
    "policy_loss": "vrpo.algorithms.losses",
    "semantic_losses": "vrpo.critics.semantics",
    "value_loss": "vrpo.critics.losses",
}
__all__ = sorted(_EXPORTS)


def __getattr__(name: str):
    if name not in _EXPORTS:
        raise AttributeError(f"module 'vrpo' has no attribute {name!r}; it offers {', '.join(__all__)}")
    return getattr(import_module(_EXPORTS[name]), name)


def __dir__() -> list[str]:
    return __all__


forward(MODULES)  # `vrpo.critic` and other names of before the rooms
