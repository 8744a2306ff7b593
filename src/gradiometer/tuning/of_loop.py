"""`tune`: choose the learning rate of a training before it starts."""

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gradiometer.arguments import check_number, check_whole
from gradiometer.convergence.formulas.number import Amount
from gradiometer.errors import BadArgument
from gradiometer.forks.data import Data, data_of, first_size
from gradiometer.forks.loop_state import check_functions, parts_of
from gradiometer.forks.recorded.growing import Progress
from gradiometer.jobs.choice import opened
from gradiometer.jobs.pool import Pool
from gradiometer.measurement.loss import Loss
from gradiometer.tuning.choice import STEP, Stage, choose, rate_of
from gradiometer.tuning.optimizers import Made, MakeOptimizer
from gradiometer.tuning.probe import Bracket, bracket
from gradiometer.tuning.start import BATCHES, start_of
from gradiometer.tuning.trials import FORWARD, Trials
from gradiometer.tuning.tuned import Tuned

BUDGET = 1.3
"""Default budget, in units of the training."""

CLIP = 2.0
"""Default of `clip`."""

ADAPTIVE = Bracket(1e-5, 1.0, 3e-3, ())
"""Bracket of optimizers whose rate does not depend on the scale of the loss."""

ABOVE = 5
"""The first round is centred this many steps of the grid above the rate of the probe."""

FEWEST, SHARE_PROBED, MOST_PROBED = 16, 1 / 20, 60
"""Fewest updates of a branch and of the probe; the probe's share of the training, and its most updates."""

FIRST_SHARE, FIRST_SPACING, FIRST_MOST = 1 / 18, 4, 7
"""Length of the branches of the first round, as a share of the training; steps of the grid between its rates, two
octaves; and the most branches, which it needs only if the best rate is far from where it started."""

SHARES, SPACING = (0.1, 0.2), 2
"""The same of the later rounds, if the budget allows."""

LEAST_BRANCHES = 3
"""Fewest branches of a round."""

LEAST = 0.6
"""If the budget does not pay for this share of the lengths of later rounds, there is one of them less."""


def tune(
    model: nn.Module,
    *,
    loss: Loss,
    batches: Any,
    steps: int,
    batch_size: int | None = None,
    budget: Amount = BUDGET,
    optimizer: str | MakeOptimizer = "sgd",
    momentum: Amount = 0.9,
    nesterov: bool = True,
    weight_decay: Amount = 0.0,
    clip: Amount | None = CLIP,
    seed: int = 0,
    pool: str | Pool = "here",
    threads: int = 1,
    out: Path | None = None,
    progress: Progress | None = None,
) -> Tuned:
    """Choose the learning rate of a training of this length, whose rate falls linearly to zero.

    A probe brackets the rate at any scale of inputs and loss. Within the bracket, branches are trained from the start,
    each with its rate linear to zero over its own length, in rounds of growing length around the best rate so far. The
    model is not touched.

    Args:
        model: The model at its start, in training mode.
        loss: Called as `loss(model, batch)`; returns the mean loss or one value per example.
        batches: The training data: a DataLoader that shuffles; tensors or a data set, with `batch_size`; a list of
            batches; or a function of a seed that returns an iterable of batches.
        steps: Number of updates of the training.
        batch_size: Size of a batch, if `batches` are examples.
        budget: The most that tuning may cost, in units of the training. With twice the default, every rate is tried on
            two data orders, which gives intervals.
        optimizer: "sgd", "adamw", or a function of (parameters, learning_rate) that returns an optimizer.
        momentum: Momentum of SGD.
        nesterov: True for Nesterov momentum, False for the heavy ball.
        weight_decay: Weight decay of "sgd" or "adamw".
        clip: Gradients are clipped at this many times the norm that they have at the start; None: not at all. It keeps
            a rate that is too high from ending the training.
        seed: Seed of the data orders and of the random draws.
        pool: Where branches are trained: "here", "processes", "processes:4", "ray", or a `Pool`. Same numbers.
        threads: Number of threads of torch in every branch.
        out: A folder. The branches are kept in its sub-folder `forks`, and a tuning that was stopped continues if it is
            asked again for the same model and data.
        progress: Called after every branch with its result and the number of finished branches, twice.

    Raises:
        BadArgument: An argument cannot be used, the budget is too small, or the data end too early.
        Unsupported: The training cannot be copied.
        UserCodeFailed: The loss or the optimizer raised, or the loss is not finite at the start.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from gradiometer import supervised
        >>> from gradiometer.tuning import tune
        >>> inputs = torch.randn(512, 4, generator=torch.Generator().manual_seed(0))
        >>> torch.manual_seed(0)  # doctest: +ELLIPSIS
        <torch._C.Generator object at ...>
        >>> model = nn.Sequential(nn.Linear(4, 1), nn.Flatten(0))
        >>> tuned = tune(
        ...     model,
        ...     loss=supervised(nn.MSELoss(reduction="none")),
        ...     batches=(inputs, inputs.sum(dim=1)),
        ...     batch_size=32,
        ...     steps=200,
        ... )
        >>> 0.005 < tuned.learning_rate < 0.5, tuned.cost <= 1.3
        (True, True)
    """
    for name, number, least in (("steps", steps, 8), ("seed", seed, 0), ("threads", threads, 1)):
        check_whole(name, number, least)
    check_number("budget", budget, positive=True)
    made = Made(optimizer, momentum, nesterov, weight_decay)
    data = data_of(batches, batch_size)
    first = made(model.parameters() if isinstance(model, nn.Module) else [], 1.0)
    check_functions(
        parts_of(model, first, None, None), loss=loss, step=None, evaluate=None, scaler=None, accumulation=1
    )
    if clip is not None:
        check_number("clip", clip, positive=True)
    start = start_of(model, first, data, loss=loss, seed=seed)
    made = made if clip is None else made.clipped(clip * start.norm)
    size = first_size(data, seed) * data.shards
    readout = max(steps * size // 48, 1)
    probed, found = _bracket(model, made(model.parameters(), 1.0), data, loss=loss, steps=steps, seed=seed)
    replicates = max(int(budget / BUDGET), 1)
    spent = (probed * (1 + 1 / FORWARD) + BATCHES) / steps
    plan = _Plan(steps, (budget - spent) / replicates, readout / size / FORWARD)
    with opened(pool) as where:
        trials = Trials(
            model, made, data, loss, size, steps, readout, replicates, found.rate, where,
            seed=seed, threads=threads, out=out, progress=progress,
        )  # fmt: skip
        choice = choose(
            trials,
            plan.first,
            lambda: plan.then(trials.updates / replicates),
            start=ABOVE if probed else 0,
            lowest=math.floor(math.log2(found.low / found.rate) / STEP),
            before=start.loss,
            highest=math.ceil(math.log2(found.high / found.rate) / STEP),
        )
    trials.finish()
    return Tuned(
        rate_of(found.rate, choice.exponent), steps, size, made, found if probed else None, choice, found.rate,
        trials.forks, spent + trials.updates / steps, budget, replicates,
    )  # fmt: skip


def _bracket(
    model: nn.Module, optimizer: torch.optim.Optimizer, data: Data, *, loss: Loss, steps: int, seed: int
) -> tuple[int, Bracket]:
    """The number of updates of the probe, 0 if there is none, and the bracket."""
    if not isinstance(optimizer, torch.optim.SGD):
        return 0, ADAPTIVE
    updates = max(min(math.ceil(steps * SHARE_PROBED), MOST_PROBED), min(FEWEST, steps // 4))
    digits = zlib.crc32(f"{seed}/tuning".encode())
    return updates, bracket(model, optimizer, loss=loss, batches=data, updates=updates, seed=digits)


@dataclass(frozen=True)
class _Plan:
    """The rounds that a budget pays for.

    Args:
        steps: Updates of the training.
        budget: In units of the training.
        readout: What the readout of a branch costs, in updates.
    """

    steps: int
    budget: float
    readout: float

    @property
    def first(self) -> Stage:
        """The first round.

        Raises:
            BadArgument: The budget does not pay for it.
        """
        fewest = min(FEWEST, max(self.steps // 6, 1))
        updates = max(round(FIRST_SHARE * self.steps), fewest)
        most = min(int(self.budget * self.steps / (updates + self.readout)), FIRST_MOST)
        if not most >= LEAST_BRANCHES:
            needed = LEAST_BRANCHES * (updates + self.readout) / self.steps + 0.15
            raise BadArgument(
                f"`budget` pays for no three branches of {updates} updates and the probe: give at least {needed:.2g}."
            )
        return Stage(updates, most, FIRST_SPACING)

    def then(self, spent: float) -> Sequence[Stage]:
        """The later rounds, after so many updates."""
        left = self.budget * self.steps - spent
        for shares in (SHARES, SHARES[1:], SHARES[:1]):
            cost = LEAST_BRANCHES * sum(share * self.steps for share in shares)
            affordable = left - LEAST_BRANCHES * len(shares) * (self.readout + 1)
            scale = min(affordable / cost, 1.0)
            lengths = [int(share * self.steps * scale) for share in shares]
            if scale >= LEAST and lengths[0] > self.first.updates:
                return [Stage(length, LEAST_BRANCHES, SPACING) for length in lengths]
        return []
