"""VRPO and its baselines: PPO with a value model that absorbs reward noise (arXiv 2508.03058).

Names are loaded when first used, so that `import vrpo` costs nothing and a program depends only on the modules it uses.
"""

from importlib import import_module

_EXPORTS = {
    "NoiseChannel": "vrpo.rewards.noise",
    "TrainConfig": "vrpo.config",
    "Trainer": "vrpo.trainer",
    "ValueModel": "vrpo.critic",
    "compute_gae": "vrpo.advantages",
    "gaussian_kl": "vrpo.losses",
    "group_relative_advantages": "vrpo.advantages",
    "policy_loss": "vrpo.losses",
    "semantic_losses": "vrpo.semantics",
    "value_loss": "vrpo.losses",
}
__all__ = sorted(_EXPORTS)


def __getattr__(name: str):
    if name not in _EXPORTS:
        raise AttributeError(f"module 'vrpo' has no attribute {name!r}; it offers {', '.join(__all__)}")
    return getattr(import_module(_EXPORTS[name]), name)


def __dir__() -> list[str]:
    return __all__
