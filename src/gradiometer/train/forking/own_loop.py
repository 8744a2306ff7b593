"""A training as a loop that can be forked, and its examples in the order of the run or in new
ones."""

import itertools
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from gradiometer.loop.data import Data
from gradiometer.loop.evaluation import losses_on
from gradiometer.loop.loop import Loop
from gradiometer.loop.readout import Readout
from gradiometer.measurement.batch import Batch, Order
from gradiometer.measurement.reading import Draw
from gradiometer.problems.evaluation import AT_ONCE, correctness
from gradiometer.problems.examples import Examples
from gradiometer.problems.problem import Problem
from gradiometer.train.accumulation import MicroBatches
from gradiometer.train.cooling import Cooling
from gradiometer.train.training import Training


def positions(order: Order, step: int, seed: int, own_until: int = 0) -> Iterator[Tensor]:
    """Positions of the examples of one batch after another.

    In shuffled epochs, the examples that the present epoch still has come first, in a new order;
    later epochs are new permutations. So every example is seen as often as in the run.

    Args:
        order: The order of the run.
        step: Index of the first batch.
        seed: Seed of the new order.
        own_until: Index of the first batch that is not the run's own; at most `step`: all of them
            are new.

    >>> from gradiometer import Draw
    >>> batches = positions(Order(Draw.RESHUFFLED, examples=6, batch_size=2), step=1, seed=5)
    >>> [next(batches).tolist() for _ in range(4)]
    [[2, 3], [5, 1], [3, 5], [2, 1]]
    """
    yield from map(order.batch, range(step, own_until))
    first = max(step, own_until)
    later = Order(
        order.draw,
        order.examples,
        order.batch_size,
        seed=zlib.crc32(f"{order.seed}/{seed}".encode()),
    )
    if order.draw is Draw.RESHUFFLED:
        epoch, place = divmod(first, order.steps_per_epoch)
        left = order.epoch(epoch)[place * order.batch_size :]
        shuffled = torch.randperm(len(left), generator=torch.Generator().manual_seed(later.seed))
        yield from left[shuffled].split(order.batch_size)
        first = (epoch + 1) * order.steps_per_epoch
    yield from map(later.batch, itertools.count(first))


def examples_before(order: Order, step: int) -> int:
    """The number of examples in the batches before a step."""
    if order.draw is not Draw.RESHUFFLED:
        return step * order.batch_size
    epochs, place = divmod(step, order.steps_per_epoch)
    return epochs * order.examples + place * order.batch_size


def loop_under_way(training: Training, seed: int) -> Loop:
    """A copy of a training under way. Its branches are read out on training examples alone.

    Args:
        training: The training.
        seed: Seed of the branches.
    """
    loop = loop_of(training, training.step)
    loop.evaluate = None
    copy = loop.copy()
    copy.seed = seed
    keep_cooling(copy.schedulers[0], training.cooling)
    return copy


class RunData(Data):
    """The examples of a run from one of its steps on, in new orders, or first in that of the run.

    Args:
        examples: The training examples.
        order: The order of the run.
        step: Index of the first batch.
    """

    def __init__(self, examples: Examples, order: Order, step: int) -> None:
        self.examples = examples
        self.order = order
        self.step = step
        self.size = order.batch_size
        self.epoch = order.examples
        self.own_until = 0

    def batches(self, seed: int) -> Iterator[Batch]:
        """The batches in the order of a seed."""
        return map(self.examples.batch, positions(self.order, self.step, seed, self.own_until))

    def replicate(self, seed: int, number: int) -> Iterator[Batch]:
        """The batches of a replicate of a fork with this seed."""
        return self.batches(zlib.crc32(f"{seed}/{number}/order".encode()))

    def see_own(self, until: int) -> int:
        """Begin each order with the batches of the run, up to this step, so that they can be
        skipped."""
        self.own_until = until
        return until

    def examples_of(self, update: int) -> tuple[int, Int[Tensor, " examples"] | None]:
        """The number of examples in the batch of a step, and their positions."""
        positions = self.order.batch(update)
        return len(positions), positions

    def some(self, count: int, seed: int, *, whole: bool = False) -> list[Batch]:
        """Some training examples; in batches of the run's size, if these are to be left whole."""
        chosen = torch.randperm(len(self.examples), generator=torch.Generator().manual_seed(seed))[
            :count
        ]
        return list(map(self.examples.batch, chosen.split(self.size if whole else AT_ONCE)))


def loop_of(training: Training, step: int) -> Loop:
    """The loop of a training that is, or is brought, at a step."""
    problem, order = training.problem, training.order
    loop = Loop(
        training.model,
        training.optimizer,
        loss=problem.loss,
        batches=RunData(training.data, order, step),
        evaluate=None
        if problem.test is None
        else _evaluate_on_test(problem, problem.test, training.device),
        scheduler=training.scheduler,
        index=step,
    )
    loop.examples = examples_before(order, step)
    loop.left = examples_before(order, training.steps) - loop.examples
    if training.configuration.accumulation > 1:
        loop.gradient = MicroBatches(
            problem.loss, training.configuration.accumulation, training.configuration.seed
        )
    return loop


def _evaluate_on_test(
    problem: Problem, examples: Examples, device: torch.device
) -> Callable[[nn.Module], dict[str, Readout]]:
    """The loss and the accuracy on the test examples, as a function of the model."""

    def evaluate(model: nn.Module) -> dict[str, Readout]:
        test = examples.to(device)
        found = losses_on(test.batches(AT_ONCE), problem.loss, model, "test")
        right = [correctness(problem, model, batch) for batch in test.batches(AT_ONCE)]
        known = [each for each in right if each is not None]
        if known:
            correct = torch.cat(known).double().cpu().numpy()
            found["test_accuracy"] = Readout.of(correct, lower_is_better=False)
        return found

    return evaluate


def keep_cooling(scheduler: Any, cooling: Cooling | None) -> None:
    """Let the scheduler give the rate with the way to zero that has begun in a run that cools
    itself."""
    if cooling is not None and cooling.acts:
        (schedule,) = scheduler.lr_lambdas
        scheduler.lr_lambdas = [lambda step: schedule(step) * cooling.multiplier(step)]
