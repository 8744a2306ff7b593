"""Before the first step of a training: a model whose gradients can be read, the device, and the
random seeds."""

import random
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.optim import SGD, AdamW, Optimizer

from gradiometer.errors import BadArgument
from gradiometer.measurement.optimizer.averaged import schedule_free
from gradiometer.measurement.optimizer.clipping import Clipping
from gradiometer.problems.examples import Examples
from gradiometer.problems.problem import Problem
from gradiometer.run.configuration import Configuration
from gradiometer.run.folder import file_name
from gradiometer.run.ranks import Ranks


def name_of_run(problem: Problem) -> str:
    """Problem and model as a file name for every system: mine:problem becomes mine-problem."""
    return file_name(f"{problem.name}-{problem.model_name}", "run")


def new_optimizer(configuration: Configuration, parameters: Sequence[Tensor]) -> Optimizer:
    """The optimizer that the configuration names."""
    c = configuration
    optimizer: Optimizer
    if c.optimizer == "schedulefree":
        optimizer = schedule_free(parameters, c.rate, c.weight_decay)
    elif c.optimizer == "adamw":
        optimizer = AdamW(parameters, lr=c.rate, weight_decay=c.weight_decay)
    else:
        optimizer = SGD(
            parameters,
            lr=c.rate,
            momentum=c.momentum,
            nesterov=c.nesterov,
            weight_decay=c.weight_decay,
        )
    if c.clip is not None:
        optimizer.register_step_pre_hook(Clipping(c.clip))
    return optimizer


def hold_out(examples: Examples, configuration: Configuration) -> tuple[Examples, Examples | None]:
    """The examples that are trained on, and those that the configuration holds out, if any.

    Raises:
        BadArgument: None would be left of one of the two.
    """
    if not configuration.held_out:
        return examples, None
    count = round(configuration.held_out * len(examples))
    if not 0 < count < len(examples):
        raise BadArgument(
            f"`held_out` {configuration.held_out:g} leaves {len(examples) - count:,} of "
            f"{len(examples):,} training examples, and holds out {count:,}: both must be above 0."
        )
    order = torch.randperm(
        len(examples), generator=torch.Generator().manual_seed(configuration.seed)
    )
    return examples.part(order[count:].sort().values), examples.part(order[:count])


def seed_everything(seed: int) -> None:
    """Torch's generators, Python's, and NumPy's global one: a model may draw from any of them."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 (the global one is what models use)


def device_of(name: str, ranks: Ranks) -> torch.device:
    """The device with this name, if torch can use it here."""
    if not (ranks.alone or name == "cpu"):
        raise BadArgument(
            f"`device` is {name!r}, but several processes train on the CPU only: leave it out, or "
            "use `gradiometer.watch` in your own DistributedDataParallel loop."
        )
    try:
        device = torch.device(name)
        torch.empty(1, device=device).item()  # "meta" is a device that holds no numbers
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise BadArgument(
            f"`device` is {name!r}, which this machine's torch cannot use ({reason}): try 'cpu'."
        ) from error
    return device
