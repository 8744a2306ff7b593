"""Models whose parameters lie in pieces on several processes (`fully_shard`): which of them can be watched."""

from typing import Any

from torch import Tensor, nn

from gradiometer.errors import BadInput
from gradiometer.train.ranks import Ranks


def is_fsdp_module(module: nn.Module) -> bool:
    """Whether `fully_shard` was called on it. By the name of its kind: to import that takes seconds."""
    return any(kind.__name__ == "FSDPModule" for kind in type(module).__mro__)


def is_shard(parameter: Tensor) -> bool:
    """Whether a parameter stands here for its piece of one that several processes hold."""
    return type(parameter).__name__ == "DTensor"


def is_sharded(model: nn.Module) -> bool:
    """Whether `fully_shard` was called on the model or a part of it."""
    return any(is_fsdp_module(module) for module in model.modules())


def reshard(model: nn.Module) -> None:
    """Let every parameter stand for its piece again: after a forward without a backward the outermost ones do not.

    The next forward gathers them once more, with the same bits.
    """
    for module in model.modules():
        if is_fsdp_module(module):
            fsdp: Any = module
            fsdp.reshard()


def refuse_shards_that_cannot_be_heard(model: nn.Module, ranks: Ranks) -> None:
    """Refuse a model that is sharded, unless by `fully_shard` as a whole, over all processes in one dimension.

    Raises:
        BadInput: As it says.
    """
    if any(type(module).__name__ == "FullyShardedDataParallel" for module in model.modules()):
        raise BadInput(
            "`model` is under FullyShardedDataParallel (FSDP1), which flattens parameters, and hooks do not hear "
            "their gradients: shard it with torch.distributed.fsdp.fully_shard (FSDP2), or use DistributedDataParallel."
        )
    sharded = is_sharded(model)
    heard = {id(parameter) for module in model.modules() if is_fsdp_module(module) for parameter in module.parameters()}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if is_shard(parameter):
            if id(parameter) not in heard:
                raise BadInput(
                    f"`model` has {name} sharded by other means than `fully_shard` (tensor parallel?), whose gradients "
                    "hooks do not hear: shard it with `fully_shard`, or use DistributedDataParallel."
                )
            _refuse_mesh(name, parameter, ranks)
        elif sharded:
            raise BadInput(
                f"`model` has {name} whole and others sharded, so that nothing averages its gradient: call "
                "`fully_shard` on the whole model too, and without `ignored_params`."
            )


def _refuse_mesh(name: str, parameter: Any, ranks: Ranks) -> None:
    mesh = parameter.device_mesh
    if mesh.ndim != 1 or not parameter.placements[0].is_shard():
        raise BadInput(
            f"`model` has {name} on a mesh of {mesh.ndim} dimensions (HSDP, or tensor parallel beside FSDP), of which "
            "nothing is measured yet: use a mesh of one dimension over all processes."
        )
    if mesh.size() != ranks.count:
        raise BadInput(
            f"`model` has {name} sharded over {mesh.size()} of {ranks.count} processes, of which nothing is measured "
            "yet: use a mesh of one dimension over all processes."
        )
    if parameter.device.type != mesh.device_type:
        raise BadInput(
            f"`model` has {name} offloaded to the {parameter.device.type} from {mesh.device_type}, of which nothing is "
            "measured yet: leave out CPUOffloadPolicy."
        )
