"""`tune`: choose the optimizer and the learning rate of a training by a race, whose winner goes on
as the training."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from gradiometer.convergence.formulas.number import Amount
from gradiometer.errors import bounded
from gradiometer.jobs.pool import Pool
from gradiometer.measurement.loss import Loss
from gradiometer.tuning.aim import Aim
from gradiometer.tuning.lane import LoopLane
from gradiometer.tuning.tuned import Tuned
from gradiometer.tuning.tuning import Progress, run_race
from gradiometer.tuning.variants import Amounts, Optimizers

# Default budget, in units of the training. With 0.7 in its place 6 of twelve choices ended within 1 %
# of the best rate, with 1.0 it was 7, and with 1.3 it was 8.
BUDGET = 1.0

# Default of `clip`.
CLIP = 2.0


@bounded
def tune(
    model: nn.Module,
    *,
    loss: Loss,
    batches: Any,
    steps: int | None = None,
    batch_size: int | Sequence[int] | None = None,
    aim: Aim | None = None,
    held_out: Any = None,
    budget: Amount = BUDGET,
    optimizer: Optimizers | None = None,
    momentum: Amounts = 0.9,
    nesterov: bool = True,
    weight_decay: Amounts = 0.0,
    clip: Amount | None = CLIP,
    seed: int = 0,
    pool: str | Pool = "here",
    threads: int = 1,
    out: Path | None = None,
    progress: Progress | None = None,
) -> Tuned:
    """Choose the optimizer and the learning rate of a training of this length by a race of lanes.

    A lane is the training at one rate, with clipped gradients. The rate in the middle is an eighth
    of that at which the first update overshoots. Three lanes two octaves apart, and further ones on
    the side of the best, are trained for a sixteenth of the steps; four around the best of these
    for an eighth; and the best two as long as the budget pays for, up to half of the steps. Lanes
    are compared by the training loss at the mean of their last parameters, on the same examples.
    The winner goes on as the training (`Tuned.go_on`): the rate is kept for the first half, and
    then falls linearly to zero. The model is not touched.

    Losses are only compared with each other: a constant added to the loss changes nothing, and
    under SGD a loss that is a times as large has rates that are 1/a as large.

    Args:
        model: The model at its start, in training mode.
        loss: Called as `loss(model, batch)`; returns the mean loss or one value per example.
        batches: The training data: a DataLoader that shuffles; tensors or a data set, with
            `batch_size`; a list of batches; or a function of a seed that returns an iterable of
            batches.
        steps: Number of updates of the training, at the first batch size. None: no length is given.
            Schedule-free SGD is then tuned, which can be stopped at any step, in lanes of a
            training of ten epochs.
        batch_size: Size of a batch, if `batches` are examples. Of several, the one is chosen that
            ends at the lowest loss for the aim.
        aim: The loss that lanes are compared by. "loss": the training loss. "test": the loss on `held_out`.
            Both after the same number of examples, if there are several batch sizes. "time": the
            training loss of several batch sizes after the same time on this machine, by measured
            step times. Default: "loss", for one batch size.
        held_out: Examples that training does not use, for the aim "test": tensors, a data set or a
            DataLoader. The choice has seen them, so that they are no test set any more.
        budget: The most that tuning may cost besides the training, in units of the training.
        optimizer: "sgd", "adamw", "schedulefree" (schedule-free SGD, whose rate stays), or a
            function of (parameters, learning_rate) that returns one. Default: "sgd", or
            "schedulefree" without `steps`. Several, as a list or as "sgd,adamw", race, and the one
            is chosen that ends at the lowest training loss.
        momentum: Momentum of SGD; several, such as (0, 0.9), race in the same way.
        nesterov: True for Nesterov momentum, False for the heavy ball.
        weight_decay: Weight decay of "sgd" or "adamw"; several race in the same way, by training
            loss.
        clip: Gradients are clipped at this many times the norm that they have at the start; None:
            not at all. It keeps a rate that is too high from ending the training.
        seed: Seed of the data orders and of the random draws.
        pool: Where lanes are trained: "here", "processes", "processes:4", "ray", or a `Pool`. Same
            numbers.
        threads: Number of threads of torch in every lane.
        out: A folder for the losses of finished lanes. A tuning that was stopped continues if it is
            asked again for the same model and data; lanes that go on are trained again up to where
            they were.
        progress: Called with a sentence after every lane of every rung.

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
        >>> 0.005 < tuned.learning_rate < 0.5, tuned.cost <= 1
        (True, True)
    """
    return run_race(
        LoopLane,
        model,
        loss=loss,
        batches=batches,
        steps=steps,
        batch_size=batch_size,
        aim=aim,
        held_out=held_out,
        budget=budget,
        optimizer=optimizer,
        momentum=momentum,
        nesterov=nesterov,
        weight_decay=weight_decay,
        clip=clip,
        seed=seed,
        pool=pool,
        threads=threads,
        out=out,
        progress=progress,
    )
