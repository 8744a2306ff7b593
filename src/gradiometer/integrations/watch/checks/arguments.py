"""Checks of the arguments of `watch`, all made before training begins."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from gradiometer.arguments import (
    check_level,
    check_number,
    check_scaler,
    check_whole,
    folder_of,
    type_name,
)
from gradiometer.errors import BadArgument
from gradiometer.gauges import Asked
from gradiometer.integrations.fsdp import is_sharded
from gradiometer.integrations.watch.data import Probe
from gradiometer.integrations.watch.description import sampling_of
from gradiometer.integrations.watch.subject import Subject
from gradiometer.measurement.optimizer.wrappers import bare_optimizer
from gradiometer.measurement.reading import Draw, Sampling
from gradiometer.run.ranks import Ranks


def check_settings(
    *,
    model: Any,
    loss: Any,
    out: Any,
    name: Any,
    scaler: Any,
    accumulation: Any,
    budget: Any,
    every: Any,
    steps: Any,
    trials: Any,
    parts: Any,
    level: Any,
    seed: Any,
    to: Any,
    groups: Any,
    batch_axis: Any,
) -> None:
    """Check the type and the range of every argument that is used as it is given.

    Raises:
        BadArgument: One of them cannot be used.
    """
    if not isinstance(model, nn.Module):
        raise BadArgument(f"`model` must be a torch.nn.Module, got {type_name(model)}.")
    if loss is not None and not callable(loss):
        raise BadArgument(
            f"`loss` must be a function, called as loss(model, batch), got {type_name(loss)}."
        )
    if isinstance(loss, nn.Module):
        raise BadArgument(
            f"`loss` is a {type(loss).__name__}, which does not take a model and a batch: give "
            "loss=supervised(criterion) for batches of (input, target), or loss=lambda model, "
            "batch: ..."
        )
    folder_of("out", out)
    if not isinstance(name, str):
        raise BadArgument(f"`name` must be a string, got {type_name(name)}.")
    check_scaler(scaler)
    check_whole("accumulation", accumulation, 1)
    check_number("budget", budget)
    _check_trials(trials, loss)
    if not budget < 1:
        raise BadArgument(
            f"`budget` must be below 1, the whole training time, got {budget}: write 0.02 for 2 %."
        )
    given = [
        (argument, value)
        for argument, value in (("every", every), ("steps", steps))
        if value is not None
    ]
    for argument, value in given:
        check_whole(argument, value, 1)
    check_whole("parts", parts, 0)
    if parts == 1:
        raise BadArgument("`parts` must be at least 2, or 0 for one part per example, got 1.")
    check_level(level)
    check_whole("seed", seed, 0)
    check_whole("batch_axis", batch_axis, 0)
    if groups is not None and not callable(groups):
        check_whole("groups", groups, 2)
    if isinstance(to, str) or not isinstance(to, Iterable):
        raise BadArgument(
            f"`to` must be a list of trackers, got {type_name(to)}: give to=[tracker]."
        )


def _check_trials(trials: Any, loss: Any) -> None:
    check_number("trials", trials)
    if trials > 0 and loss is None:
        raise BadArgument("`trials` needs `loss`: give loss=lambda model, batch: ...")


def optimizers_of(optimizer: Any) -> list[torch.optim.Optimizer]:
    """The torch optimizers in an optimizer, in a wrapper of one (Accelerate, fastai), or in a list
    of these.

    Raises:
        BadArgument: There is none.
    """
    several = list(optimizer) if isinstance(optimizer, list | tuple) else [optimizer]
    found = [bare_optimizer(one) for one in several]
    strangers = [type_name(one) for one in found if not isinstance(one, torch.optim.Optimizer)]
    if strangers or not found:
        raise BadArgument(
            "`optimizer` must be a torch optimizer, a wrapper of one or a list, got "
            f"{', '.join(strangers) or 'none'}: `watch` follows the `step` of the torch optimizer "
            "that trains `model`."
        )
    return found


def sampling_from(sampling: Any, examples: int | None, replacement: bool | None) -> Sampling:
    """How batches are drawn, from any of the ways to give it.

    Raises:
        BadArgument: They contradict each other, or one cannot be used.
    """
    if examples is None and replacement is not None:
        raise BadArgument(
            "`replacement` is given without the size of the training set: give `examples` too."
        )
    if sampling is not None and examples is not None:
        raise BadArgument(
            "`sampling` and `examples` both say how batches are drawn: leave one of them out."
        )
    if examples is not None:
        check_whole("examples", examples, 1)
        if not isinstance(replacement, bool | None):
            raise BadArgument(f"`replacement` must be True or False, got {replacement!r}.")
        return Sampling(Draw.REPLACEMENT if replacement else Draw.RESHUFFLED, examples)
    if isinstance(sampling, DataLoader):
        return sampling_of(sampling)
    if sampling is not None and not isinstance(sampling, Sampling):
        raise BadArgument(
            f"`sampling` must be a DataLoader or a Sampling, got {type_name(sampling)}: give "
            "sampling=loader."
        )
    return sampling or Sampling(Draw.REPLACEMENT)


def probe_from(probe: Any, gauges: Asked, accumulation: int, *, has_loss: bool) -> Probe:
    """The source of independent examples, from what was given as `probe`.

    Raises:
        BadArgument: No examples can be taken from it, or they cannot be measured in this loop.
    """
    if not has_loss:
        raise BadArgument("`probe` is given without `loss`, which runs its examples: give both.")
    if accumulation > 1 or not Ranks.here().alone:
        raise BadArgument(
            "`probe` is for one backward per update on one process: leave it out, and the "
            "backwards are measured."
        )
    if back := next((kind.name for kind in gauges.kinds if kind.looks_back), ""):
        raise BadArgument(
            f"`gauges` names {back}, which needs training's own batches: leave it out, or `probe`."
        )
    return Probe.of(probe)


def check_spread(subject: Subject, accumulation: int) -> None:
    """Check that a step shows a spread: that a batch can be run in halves, or comes in several
    backwards.

    Raises:
        BadArgument: It does not.
    """
    if accumulation > 1 or not subject.ranks.alone:
        return
    if is_sharded(subject.objective.model):
        raise BadArgument(
            "`model` is sharded (FSDP) over one process, where half of a batch cannot be run: "
            "start several processes, or accumulate several backwards per update and give their "
            "number as `accumulation`."
        )
    if not subject.has_loss:
        raise BadArgument(
            "`loss` is missing, and one backward per step shows no spread: give loss=lambda model, "
            "batch: ..., or accumulate several backwards per update and give their number as "
            "`accumulation`."
        )
