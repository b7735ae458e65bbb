"""Where the weights of a run's models lie: whole in every process, or each process a shard of them (torch's FSDP2).

Models that share weights form one root. What needs a gradient runs inside its root's forward pass (`run`), where the weights outside the
transformer's layers are whole and each layer's become so for as long as it computes; backward passes give every process the sum of its shard's
gradients over the processes. What needs none, sampling above all, asks for whole models meanwhile (`gathered`): then processes may run
different numbers of passes.
"""

from __future__ import annotations

import copy
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import PreTrainedModel

from vrpo.config import Precision, TrainConfig
from vrpo.critics.value_model import ValueModel
from vrpo.errors import UserError
from vrpo.models.lm_head import LanguageModelHead
from vrpo.models.lora import without_lora
from vrpo.models.states import outermost_layers
from vrpo.training.checkpoint import load_checkpoint, save_checkpoint
from vrpo.training.processes import Processes
from vrpo.training.shards import load_shards, save_shards

P = ParamSpec("P")
R = TypeVar("R")


class Whole:
    """Every process holds whole models and optimisers; gradients are summed over them. One process: nothing is done at all.

    Attributes:
        writes: this process takes part in writing checkpoints.
        nursery: device on which models are put together before `place`.
    """

    def __init__(self, processes: Processes) -> None:
        self.processes, self.writes, self.nursery = processes, processes.is_main, processes.device

    def place(self, *models: nn.Module | None) -> None:
        """Lay models out, once, before optimisers take their parameters. Weights that several of them share stay shared."""

    def run(self, model: nn.Module, function: Callable[P, R], *arguments: P.args, **options: P.kwargs) -> R:
        """What `function` returns, which reads weights of `model` and may ask for gradients. All processes call it equally often."""
        return function(*arguments, **options)

    def missing(self, rows: int, size: int) -> int:
        """Passes of `run` that other processes have to make beyond this one's, of micro-batches of `size` out of all `rows`."""
        return 0

    @contextmanager
    def gathered(self, *models: nn.Module) -> Iterator[None]:
        """Whole models inside, for passes without gradient of any number. All processes enter and leave together."""
        yield

    def reduce(self, parameters: Iterable[nn.Parameter]) -> None:
        """Make gradients those of all processes' rows."""
        self.processes.sum_gradients(parameters)

    def clip(self, parameters: list[nn.Parameter], limit: float) -> float:
        """Cut gradients to a norm of `limit`; returns the norm that they had."""
        return whole_tensor(nn.utils.clip_grad_norm_(parameters, limit)).item()

    def plain(self, model: nn.Module, everywhere: bool = False) -> nn.Module:
        """The model with whole weights, for the main process or `everywhere`, to be read and saved; other processes must not look into it."""
        return model

    def whole(self, model: nn.Module) -> Iterator[tuple[str, Tensor]]:
        """Weights by the names of a saved model, adapters folded in. All processes read them, or none."""
        yield from without_lora(self.plain(model, everywhere=True)).state_dict().items()

    def save(self, path: Path, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
        """Write a checkpoint (see `save_checkpoint`)."""
        save_checkpoint(path, tensors, meta)

    def load(self, path: Path, fingerprint: dict[str, Any], like: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Read a checkpoint (see `load_checkpoint`), whole or in shards, into tensors that lie as those in `like` of the same name do."""
        return load_shards(path, fingerprint, like) if path.is_dir() else load_checkpoint(path, fingerprint)


class Sharding(Whole):
    """Weights, gradients and optimiser states are split over processes along their first dimension.

    Args:
        mesh: of the processes; two dimensions: copies, and the shards of each.
        precision: the run's; with bfloat16 layers are gathered in it, the shards stay float32.
        offload: shards wait in the host's memory.
    """

    def __init__(self, processes: Processes, mesh: DeviceMesh, precision: Precision, offload: bool) -> None:
        super().__init__(processes)
        self.writes, self.nursery, self.mesh = True, torch.device("cpu"), mesh
        place = CPUOffloadPolicy(pin_memory=mesh.device_type != "cpu") if offload else OffloadPolicy()
        self.options = {"mesh": mesh, "offload_policy": place}
        # Inputs are not cast: under autocast a layer's products are in half precision, the stream between layers is not.
        half = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32, cast_forward_inputs=False)
        self.layer_options = self.options | ({"mp_policy": half} if precision == "bfloat16" else {})
        self.roots: dict[int, _Root] = {}  # by the model's id
        self.forms: dict[int, nn.Module] = {}  # each model without its weights

    def place(self, *models: nn.Module | None) -> None:
        """See `Whole.place`.

        Raises:
            UserError: a parameter is a single number, or that of two layers.
        """
        known = [model for model in models if model is not None]
        for model in known:
            _refuse_indivisible(model)
            self.forms[id(model)] = _form(model)
            if not isinstance(model, ValueModel):
                LanguageModelHead.plain(model)  # looked at now: later one process might, where its texts are long, and another not
        for group in _sharing(known):
            root = _Root(group)
            for layer in _layers(root):
                fully_shard(layer, **self.layer_options)
            fully_shard(root, **self.options)
            for unit in _units(root):
                unit.set_gradient_divide_factor(1.0)  # losses are divided by counts over all processes
                unit.set_force_sum_reduction_for_comms(True)
            root(lambda: None)  # the first pass decides what is the root
            root.reset_iter_state()
            self.roots |= {id(model): root for model in group}

    def run(self, model: nn.Module, function: Callable[P, R], *arguments: P.args, **options: P.kwargs) -> R:
        return self.roots[id(model)](partial(function, *arguments, **options))

    def missing(self, rows: int, size: int) -> int:
        most, mine = -(-rows // self.processes.count), self.processes.share(rows)
        return -(-most // size) - -(-(mine.stop - mine.start) // size)

    @contextmanager
    def gathered(self, *models: nn.Module) -> Iterator[None]:
        with ExitStack() as stack:
            for root in dict.fromkeys(self.roots[id(model)] for model in models):
                inside = {id(module) for model in models for module in model.modules()}
                layers = [unit for unit in _units(root) if id(unit) in inside and unit is not root]
                for unit in (root, *layers):
                    unit.unshard()
                for layer in layers:
                    layer.set_reshard_after_forward(False, recurse=False)
                stack.callback(_reshard, root, layers)
            yield

    def reduce(self, parameters: Iterable[nn.Parameter]) -> None:
        """Backward passes have done it."""

    def plain(self, model: nn.Module, everywhere: bool = False) -> nn.Module:
        form, memo = self.forms[id(model)], {}
        for own, empty in zip(_tensors(model), _tensors(form), strict=True):
            tensor = whole_tensor(own.detach())
            if self.processes.is_main or everywhere:
                memo[id(empty)] = tensor.cpu().clone()
                if isinstance(empty, nn.Parameter):
                    memo[id(empty)] = nn.Parameter(memo[id(empty)], requires_grad=empty.requires_grad)
        return copy.deepcopy(form, memo)

    def save(self, path: Path, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
        """Write a checkpoint (see `save_shards`)."""
        save_shards(path, tensors, meta, self.processes)

    def load(self, path: Path, fingerprint: dict[str, Any], like: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Any]]:
        if path.is_dir():
            return load_shards(path, fingerprint, like, self.processes)
        tensors, meta = load_checkpoint(path, fingerprint)
        return {name: _laid_out(tensor, like.get(name)) for name, tensor in tensors.items()}, meta


class _Root(nn.Module):
    """Models that share weights. Whatever is called inside its forward pass finds their weights whole."""

    def __init__(self, models: list[nn.Module]) -> None:
        super().__init__()
        self.models = nn.ModuleList(models)

    def forward(self, call: Callable[[], Any]) -> Any:
        return call()


def new_sharding(config: TrainConfig, precision: Precision, processes: Processes) -> Whole:
    """What `train.sharding` asks for; one process holds everything whole.

    Raises:
        UserError: `hybrid` where the processes do not divide into machines of as many.
    """
    if config.sharding is None or processes.count == 1:
        return Whole(processes)
    device = processes.device.type
    if config.offload and device != "cpu" and "cpu" not in torch.distributed.get_backend_config():
        raise UserError(
            "train.offload = true: gradients in the host's memory have norms that are summed there, which this launch did not prepare; start "
            "with accelerate launch --use_fsdp --fsdp_offload_params true, or set it to false"
        )
    sizes: dict[str, int] = {"shard": processes.count}
    if config.sharding == "hybrid":
        here = int(os.environ.get("LOCAL_WORLD_SIZE", processes.count))
        if processes.count % here:
            raise UserError(
                f"train.sharding = 'hybrid': {processes.count} processes, {here} of them on this machine, are no machines of equally many; "
                "use full, or start as many on each"
            )
        sizes = {"replicate": processes.count // here, "shard": here}
    mesh = init_device_mesh(device, tuple(sizes.values()), mesh_dim_names=tuple(sizes))
    return Sharding(processes, mesh, precision, config.offload)


def whole_tensor(tensor: Tensor) -> Tensor:
    """A tensor of which this process may hold a shard. All processes ask together."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _laid_out(tensor: Tensor, like: Tensor | None) -> Tensor:
    """This process's shard of a tensor that every process has."""
    if not isinstance(like, DTensor) or like.shape != tensor.shape:
        return tensor
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def _refuse_indivisible(model: nn.Module) -> None:
    owners = Counter(id(parameter) for layer in _layers(model) for parameter in layer.parameters())
    for name, parameter in model.named_parameters():
        if not parameter.ndim or owners[id(parameter)] > 1:
            what = "that of several layers" if parameter.ndim else "a single number"
            raise UserError(f"train.sharding: {type(model).__name__}'s parameter {name} is {what} and cannot be sharded; set it to null")


def _sharing(models: list[nn.Module]) -> list[list[nn.Module]]:
    """Models in groups that have no parameter in common."""
    groups: list[list[nn.Module]] = []
    for model in models:
        own = set(map(id, model.parameters()))
        apart = [group for group in groups if own.isdisjoint(id(p) for other in group for p in other.parameters())]
        groups = [*apart, [other for group in groups if group not in apart for other in group] + [model]]
    return groups


def _layers(module: nn.Module) -> list[nn.Module]:
    """The layers of all transformers in a module."""
    models = [part for part in module.modules() if isinstance(part, PreTrainedModel)]
    return list(dict.fromkeys(layer for model in models for layer in outermost_layers(model) if next(layer.parameters(), None) is not None))


def _units(module: nn.Module) -> list[FSDPModule]:
    return [part for part in module.modules() if isinstance(part, FSDPModule)]


def _reshard(root: FSDPModule, layers: list[FSDPModule]) -> None:
    """Shards again, and no memory of the passes in between."""
    root.reset_iter_state()
    for layer in layers:
        layer.set_reshard_after_forward(True, recurse=False)


def _form(model: nn.Module) -> nn.Module:
    """A copy without weights."""
    weightless = {id(p): nn.Parameter(torch.empty_like(p, device="meta"), requires_grad=p.requires_grad) for p in model.parameters()}
    return copy.deepcopy(model, weightless)


def _tensors(model: nn.Module) -> list[Tensor]:
    return [*model.parameters(), *model.buffers()]
