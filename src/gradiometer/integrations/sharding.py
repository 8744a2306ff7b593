"""Which sharded models (FSDP2) can be watched, and their preconditioner. A model that is not sharded
needs nothing else of FSDP."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gradiometer.errors import Unsupported
from gradiometer.integrations.gradients import Preconditioner
from gradiometer.measurement.gauge import Gauge
from gradiometer.measurement.objective import Objective
from gradiometer.measurement.preconditioner import SAMPLE, Sample, is_adaptive, preconditioner_of
from gradiometer.run.ranks import Ranks


def is_fsdp_module(module: nn.Module) -> bool:
    """True if `fully_shard` was called on the module. Checked by class name, since the import takes
    seconds."""
    return any(kind.__name__ == "FSDPModule" for kind in type(module).__mro__)


def is_shard(parameter: Tensor) -> bool:
    """True if a parameter is this process's piece of a sharded one."""
    return type(parameter).__name__ == "DTensor"


def is_sharded(model: nn.Module) -> bool:
    """True if `fully_shard` was called on the model or a part of it."""
    return any(is_fsdp_module(module) for module in model.modules())


def reshard(model: nn.Module) -> None:
    """Free the whole parameters that a forward without a backward has left gathered.

    The next forward gathers them again, with the same bits.
    """
    for module in model.modules():
        if is_fsdp_module(module):
            fsdp: Any = module
            fsdp.reshard()


def refuse_unsupported_shards(model: nn.Module, ranks: Ranks) -> None:
    """Refuse a sharded model, unless `fully_shard` shards all of it over all processes, or in equal
    groups of them.

    Raises:
        Unsupported: It is sharded in another way.
    """
    if any(type(module).__name__ == "FullyShardedDataParallel" for module in model.modules()):
        raise Unsupported(
            "`model` is under FullyShardedDataParallel (FSDP1), which flattens parameters, so that "
            "hooks cannot read their gradients: use torch.distributed.fsdp.fully_shard (FSDP2) or "
            "DistributedDataParallel."
        )
    sharded = is_sharded(model)
    readable = {
        id(parameter)
        for module in model.modules()
        if is_fsdp_module(module)
        for parameter in module.parameters()
    }
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if is_shard(parameter):
            if id(parameter) not in readable:
                raise Unsupported(
                    f"`model` has {name} sharded by other means than `fully_shard` (tensor "
                    "parallel?), whose gradients hooks cannot read: shard it with `fully_shard`, "
                    "or use DistributedDataParallel."
                )
            _refuse_mesh(name, parameter, ranks)
        elif sharded:
            raise Unsupported(
                f"`model` has {name} whole and others sharded, so that nothing averages its "
                "gradient: call `fully_shard` on the whole model too, and without "
                "`ignored_params`."
            )


def _refuse_mesh(name: str, parameter: Any, ranks: Ranks) -> None:
    mesh, placements = parameter.device_mesh, parameter.placements
    if not (
        placements[-1].is_shard()
        and (mesh.ndim == 1 or (mesh.ndim == 2 and placements[0].is_replicate()))
    ):
        raise Unsupported(
            f"`model` has {name} placed as {placements} on its mesh (tensor parallel?), which "
            "cannot be measured: use a mesh of one dimension, or of replicas and shards (HSDP), "
            "over all processes."
        )
    if mesh.size() != ranks.count:
        raise Unsupported(
            f"`model` has {name} sharded over {mesh.size()} of {ranks.count} processes, which "
            "cannot be measured yet: use a mesh over all processes."
        )
    if parameter.device.type != mesh.device_type:
        raise Unsupported(
            f"`model` has {name} offloaded to the {parameter.device.type} from {mesh.device_type}, "
            "which cannot be measured yet: leave out CPUOffloadPolicy."
        )


def preconditioner_for(
    gauges: Iterable[type[Gauge]],
    optimizers: Sequence[torch.optim.Optimizer],
    objective: Objective,
    ranks: Ranks,
) -> Preconditioner | None:
    """P, or this process's pieces of it, clipped at a median over the pieces of all; None if no
    gauge needs it."""
    if not any(gauge.needs_preconditioner for gauge in gauges):
        return None
    if not is_sharded(objective.model):
        return Preconditioner(
            lambda: (
                preconditioner_of(optimizers, objective.parameters)
                if all(map(is_adaptive, optimizers))
                else None
            )
        )
    pieces = objective.parameters  # within a forward the model has whole ones in their place

    def joined(sample: Sample) -> Sample:
        device = pieces[0].device
        row = torch.full((1, 2 * SAMPLE), math.nan, dtype=torch.float64, device=device)
        row[0, : len(sample)] = torch.from_numpy(sample).to(device)
        everyone: Sample = ranks.gathered(row).flatten().cpu().numpy()
        return np.asarray(everyone[~np.isnan(everyone)])

    return Preconditioner(lambda: preconditioner_of(optimizers, pieces, sample_of_all=joined))
