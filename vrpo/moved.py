"""Names of modules before they moved into rooms, which programs outside still use: each leads to the module that has its content now."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import CodeType, ModuleType

MODULES = {
    "vrpo.advantages": "vrpo.algorithms.advantages",
    "vrpo.checkpoint": "vrpo.training.checkpoint",
    "vrpo.compatibility": "vrpo.rollout.compatibility",
    "vrpo.conversation": "vrpo.rollout.conversation vrpo.data.text",
    "vrpo.critic": "vrpo.critics.value_model",
    "vrpo.diagnostics": "vrpo.metrics.critic vrpo.metrics.monte_carlo vrpo.metrics.health",
    "vrpo.evaluation": "vrpo.rollout.before vrpo.rollout.samples",
    "vrpo.forward": "vrpo.models.forward",
    "vrpo.generation": "vrpo.rollout.engines.transformers vrpo.data.text",
    "vrpo.identity": "vrpo.training.identity",
    "vrpo.limits": "vrpo.models.limits",
    "vrpo.lm_head": "vrpo.models.lm_head",
    "vrpo.lora": "vrpo.models.lora",
    "vrpo.losses": "vrpo.algorithms.losses vrpo.critics.losses",
    "vrpo.masking": "vrpo.data.masking",
    "vrpo.objective": "vrpo.training.objective",
    "vrpo.precision": "vrpo.models.precision",
    "vrpo.preflight": "vrpo.training.preflight",
    "vrpo.processes": "vrpo.training.processes",
    "vrpo.prompts": "vrpo.data.prompts",
    "vrpo.recompute": "vrpo.models.recompute",
    "vrpo.saved": "vrpo.training.saved",
    "vrpo.scoring": "vrpo.rewards.experience vrpo.metrics.rollout",
    "vrpo.semantics": "vrpo.critics.semantics",
    "vrpo.states": "vrpo.models.states",
    "vrpo.supervised": "vrpo.models.supervised",
    "vrpo.surprisal": "vrpo.critics.surprisal",
    "vrpo.tasks.chain": "vrpo.tasks.math.chain",
    "vrpo.tasks.chain_oracle": "vrpo.tasks.math.chain_oracle",
    "vrpo.tasks.equality": "vrpo.tasks.math.equality",
    "vrpo.tasks.math_checker": "vrpo.tasks.math.checker",
    "vrpo.tasks.physics": "vrpo.tasks.science.physics",
    "vrpo.trainer": "vrpo.training.trainer",
    "vrpo.types": "vrpo.data.batch",
    "vrpo.updater": "vrpo.training.updater",
}


class Forwarding(MetaPathFinder, Loader):
    """Finds modules under their old names, also for `python -m`. `modules` gives the new name, or several where the content was divided."""

    def __init__(self, modules: Mapping[str, str]) -> None:
        self.modules = modules

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        return ModuleSpec(name, self) if name in self.modules else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        parts = [import_module(name) for name in self.modules[spec.name].split()]
        if len(parts) == 1:
            spec.loader_state = parts[0].__spec__
            return parts[0]
        module = ModuleType(spec.name, f"Moved to {self.modules[spec.name]}.")
        vars(module).update({name: value for part in reversed(parts) for name, value in vars(part).items() if not name.startswith("__")})
        return module

    def exec_module(self, module: ModuleType) -> None:
        if (old := module.__spec__) and old.loader_state:
            module.__spec__ = old.loader_state  # its own, which importing it under the old name has just replaced

    def get_code(self, name: str) -> CodeType | None:
        """What `python -m` runs."""
        new = find_spec(self.modules[name])
        return new.loader.get_code(new.name) if new and new.loader else None


def forward(modules: Mapping[str, str]) -> None:
    """Let modules be imported by their old names."""
    sys.meta_path.append(Forwarding(modules))
