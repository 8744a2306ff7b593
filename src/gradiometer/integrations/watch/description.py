"""What can be watched, and the description of a loop that its run folder keeps."""

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.optim import SGD
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)
from torch.utils.data.distributed import DistributedSampler

from gradiometer.drift.batch_sharpness import BatchSharpness, PreconditionedSharpness
from gradiometer.errors import BadArgument, Unsupported
from gradiometer.estimation.noise import GradientNoise
from gradiometer.estimation.preconditioned_noise import PreconditionedNoise
from gradiometer.gauges import Asked, GaugesAsked
from gradiometer.integrations.watch.observers.triage.exact import untrained
from gradiometer.integrations.watch.subject import Subject
from gradiometer.measurement.objective import Objective
from gradiometer.measurement.optimizer.steps import trained_ids
from gradiometer.measurement.preconditioner import KNOWN, is_adaptive
from gradiometer.measurement.reading import Draw, Sampling
from gradiometer.run.configuration import WatchedConfiguration
from gradiometer.run.folder import WATCHED, versions


def known_sampling(loader: Any) -> Sampling | None:
    """The way in which a loader draws its batches; None if that cannot be seen."""
    if not isinstance(loader, DataLoader):
        return None
    # a sampler of another library, a data set without a length, or whose length is code that fails
    with suppress(Exception):
        sampling = sampling_of(loader)
        return None if sampling.examples is None else sampling
    return None


def sampling_of(loader: "DataLoader[Any]") -> Sampling:
    """The way a DataLoader draws its batches, and the number of examples.

    >>> from torch.utils.data import DataLoader
    >>> sampling_of(DataLoader(range(1000), batch_size=32, shuffle=True))
    Sampling(draw=<Draw.RESHUFFLED: 'reshuffled'>, examples=1000)

    Raises:
        BadArgument: Its sampler is not one of torch's own, or draws with weights and without
            replacement.
    """
    dataset, sampler = loader.dataset, loader.sampler
    if isinstance(dataset, torch.utils.data.IterableDataset):
        return Sampling(Draw.FRESH)
    examples = len(dataset)  # type: ignore[arg-type]
    if isinstance(sampler, BatchSampler):
        sampler = sampler.sampler
    if isinstance(sampler, RandomSampler):
        return Sampling(Draw.REPLACEMENT if sampler.replacement else Draw.RESHUFFLED, examples)
    if isinstance(sampler, SubsetRandomSampler):
        return Sampling(Draw.RESHUFFLED, len(sampler))
    if isinstance(sampler, WeightedRandomSampler) and sampler.replacement:
        # independent draws, whose mean gradient is that of the weighted examples
        return Sampling(Draw.FRESH)
    if (
        isinstance(sampler, SequentialSampler | DistributedSampler)
        or type(sampler).__name__ == "SeedableRandomSampler"
    ):
        return Sampling(Draw.RESHUFFLED, examples)
    raise BadArgument(
        f"`loader` has a {type(sampler).__name__}, which is unknown here: describe it with "
        "sampling=Sampling(Draw.RESHUFFLED, examples=N) or Sampling(Draw.REPLACEMENT, examples=N)."
    )


def refuse_what_cannot_be_watched(
    model: nn.Module, optimizers: Sequence[torch.optim.Optimizer]
) -> None:
    """Refuse a model whose gradients hooks cannot read, and optimizers that do not train it.

    Raises:
        BadArgument: No optimizer trains the model.
        Unsupported: The model cannot be measured.
    """
    for group in (group for optimizer in optimizers for group in optimizer.param_groups):
        if not 0 <= float(group.get("lr", 0.0)) < math.inf:
            raise BadArgument(
                f"`optimizer` has the learning rate {float(group['lr']):g}: set it to a finite one."
            )
    trained = trained_ids(optimizers)
    own = {
        name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad
    }
    for name, parameter in own.items():
        if is_lazy(parameter):
            raise Unsupported(
                f"`model` has {name} not made yet: run the lazy model once before `watch`."
            )
        if parameter.is_meta:
            raise Unsupported(
                f"`model` has {name} on the meta device, without numbers: put it on a real one "
                "first."
            )
        if parameter.is_complex():
            raise Unsupported(
                f"`model` has the complex parameter {name}: hold its real and imaginary part, as "
                "reals."
            )
    for name, module in model.named_modules():
        if getattr(module, "sparse", False) is True:
            raise Unsupported(
                f"`model` makes sparse gradients in {name or 'itself'}: build it with sparse=False."
            )
    if own and not any(id(parameter) in trained for parameter in own.values()):
        raise BadArgument("`optimizer` holds no parameter of `model`: give the one that trains it.")


def left_out(objective: Objective, optimizers: Sequence[torch.optim.Optimizer]) -> str:
    """A sentence about parameters that no optimizer holds; empty if there are none."""
    names = untrained(objective, optimizers)
    if not names:
        return ""
    more = f" and {len(names) - 1:,} more parameters" if len(names) > 1 else ""
    return (
        f"`optimizer` does not train {names[0]}{more}, whose gradients are measured with the "
        "others: freeze parameters that are not trained with requires_grad_(False)"
    )


def configuration_of(
    subject: Subject, name: str, batch_size: int, asked: Mapping[str, Any]
) -> WatchedConfiguration:
    """The configuration of the loop, from the settings of `watch` and the first batch."""
    draw = subject.batches.sampling.draw
    return WatchedConfiguration(
        problem=name,
        batch_size=batch_size,
        accumulation=subject.source.batch_size(1),
        sampling="reshuffled" if draw is Draw.RESHUFFLED else "replacement",
        device=subject.parameters[0].device.type,
        threads=torch.get_num_threads(),
        budget=subject.budget.share,
        seed=subject.seed,
        **asked,
    )


def gauges_for(
    gauges: GaugesAsked | None,
    optimizers: Sequence[torch.optim.Optimizer],
    *,
    has_loss: bool,
    alone: bool,
    sharded: bool = False,
) -> Asked:
    """The gauges that were asked for, or else those that this loop allows.

    Raises:
        BadArgument: A gauge was asked for that this loop does not allow.
    """
    others_than_sgd = [type(one).__name__ for one in optimizers if not isinstance(one, SGD)]
    not_adaptive = [type(one).__name__ for one in optimizers if not is_adaptive(one)]
    is_default = gauges is None
    if gauges is None:
        chosen = [GradientNoise.name]
        if not not_adaptive and not sharded:
            chosen.append(PreconditionedNoise.name)
        if has_loss and alone and not sharded and not (others_than_sgd and not_adaptive):
            sharpness = PreconditionedSharpness if others_than_sgd else BatchSharpness
            chosen.append(sharpness.name)
        gauges = chosen
    asked = Asked.of(gauges)
    for kind in asked.kinds:
        why = ""
        if kind is BatchSharpness and others_than_sgd and not not_adaptive:
            why = (
                f"which is for SGD: under {others_than_sgd[0]} it is {PreconditionedSharpness.name}"
            )
        elif kind.sgd_only and others_than_sgd:
            why = (
                f"whose {kind.sgd_only} is known for SGD and not for {others_than_sgd[0]}: leave "
                "it out"
            )
        elif kind.needs_preconditioner and not_adaptive:
            why = (
                f"whose preconditioner is known for {KNOWN}, and not for {not_adaptive[0]}: leave "
                "it out"
            )
        elif sharded and kind.processes != "sharded":
            why = "which cannot measure a sharded model (FSDP): ask for noise"
        elif kind.needs_loss and not has_loss:
            why = "which runs the model: give `loss`, or leave it out"
        elif kind.processes == "one" and not alone:
            why = "which works on one process: leave it out"
        if why:
            raise BadArgument(f"`gauges` names {kind.name}, {why}.")
    return replace(asked, by_default=is_default)


def shows_products(subject: Subject, asked: Mapping[str, Any]) -> bool:
    """True if the noise can be read from the gradients of successive steps, and neither single
    steps nor the parts of a batch were asked for."""
    batches = subject.batches
    is_own_batch = batches.probe is None and batches.groups is None
    return (
        bool(subject.budget.share)
        and asked["every"] in (None, 1)
        and asked["parts"] is None
        and is_own_batch
        and subject.source.reads_successive
    )


def manifest_of(
    configuration: WatchedConfiguration, subject: Subject, asked: Asked
) -> dict[str, Any]:
    """The contents of `run.toml` for a watched loop."""
    objective = subject.objective
    batches = subject.batches
    return {
        "configuration": configuration.to_dict(),
        "versions": versions(),
        "seeds": {"seed": configuration.seed},
        "sampling": batches.sampling.to_dict(),
        **({} if batches.probe is None else {"probe": batches.probe.sampling.to_dict()}),
        "layers": list(objective.layers),
        "mode": "shared" if configuration.accumulation > 1 else "apart",
        "ranks": subject.source.ranks.count,
        "gauges": asked.manifest(),
        "problem": {
            "name": configuration.problem,
            "model": type(objective.model).__name__,
            "parameters": objective.dimension,
            "description": WATCHED,
        },
    }
