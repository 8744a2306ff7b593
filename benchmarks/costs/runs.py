"""Whole runs: the training loop at its default cadence, with the instrument off, and by hand over
the same batches."""

import random
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import torch

from costs.rounds import Seconds
from costs.steps import LEARNING_RATE
from costs.workloads import BATCH_SIZE, BATCHES
from gradiometer import Configuration, Draw, GradiometerError, Problem
from gradiometer.measurement import Order
from gradiometer.run.folder import RunFolder
from gradiometer.run.recorder import Recorder
from gradiometer.train import train
from gradiometer.train.training import Training

KINDS = ("by hand", "off", "on")
FEWEST_EPOCHS = 4
"""Of a run: a shorter one has not yet earned its first measurement, which is let through before its
cost is known."""


def _one_each() -> Seconds:
    return {kind: [] for kind in KINDS}


@dataclass
class Account:
    """What the runs of all rounds took, by kind, and what the loop says of itself.

    Args:
        steps: Steps of a run.
        whole: Processor seconds of each run, from nothing to its end.
        inside: Those between the start of the first step and the end of the last.
        clock: Seconds of the whole run by the clock on the wall, the waiting for the disk included.
        used: Share of the training time the instrument says it used, in each run that was measured.
        measured: Measured steps of each of them.
    """

    steps: int
    whole: Seconds = field(default_factory=_one_each)
    inside: Seconds = field(default_factory=_one_each)
    clock: Seconds = field(default_factory=_one_each)
    used: list[float] = field(default_factory=list)
    measured: list[int] = field(default_factory=list)

    @property
    def around(self) -> list[float]:
        """Processor seconds an unmeasured run takes around its steps: its folder, two checkpoints,
        its journal."""
        return [
            whole - inside
            for whole, inside in zip(self.whole["off"], self.inside["off"], strict=True)
        ]


class Stopwatch:
    """Looks at the processor's clock when a run begins and after each of its steps."""

    def begin(self, training: Training, recorder: Recorder, folder: RunFolder) -> None:
        """The first step is about to begin."""
        self.start()

    def update(self, training: Training, recorder: Recorder, loss: float) -> None:
        """A step was made."""
        self.stop()

    def start(self) -> None:
        """From here."""
        self.began = time.process_time()

    def stop(self) -> None:
        """To here, as far as is known."""
        self.ended = time.process_time()


def whole_runs(problem: Problem, step_seconds: float, run_seconds: float, rounds: int) -> Account:
    """One run of each kind a round, in a new order, each of about `run_seconds`, on the same
    batches.

    Raises:
        GradiometerError: The last losses of two kinds differ in a single bit: they did not do the
            same work.
    """
    epochs = max(round(run_seconds / step_seconds / BATCHES), FEWEST_EPOCHS)
    account = Account(epochs * BATCHES)
    order, shuffled = list(KINDS), random.Random(0)
    for _ in range(rounds):
        shuffled.shuffle(order)
        losses = {kind: _timed(problem, kind, epochs, account) for kind in order}
        if len(set(losses.values())) > 1:
            raise GradiometerError(
                f"the runs did not do the same work: their last losses are {losses}"
            )
    return account


def _timed(problem: Problem, kind: str, epochs: int, account: Account) -> float:
    """One run, put down in the account; returns its last loss."""
    stopwatch = Stopwatch()
    processor, wall = time.process_time(), time.perf_counter()
    if kind == "by hand":
        loss = _by_hand(problem, epochs, stopwatch)
    else:
        loss = _by_the_loop(problem, kind, epochs, stopwatch, account)
    account.whole[kind].append(time.process_time() - processor)
    account.inside[kind].append(stopwatch.ended - stopwatch.began)
    account.clock[kind].append(time.perf_counter() - wall)
    return loss


def _by_the_loop(
    problem: Problem, kind: str, epochs: int, stopwatch: Stopwatch, account: Account
) -> float:
    """The run as `gradiometer train` makes it, at the default budget or with none."""
    configuration = Configuration(batch_size=BATCH_SIZE, epochs=epochs, learning_rate=LEARNING_RATE)
    if kind == "off":
        configuration = msgspec.structs.replace(configuration, budget=0.0)
    with tempfile.TemporaryDirectory() as folder:
        run = train(problem, configuration, Path(folder), stopwatch)
        if kind == "on":
            account.used.append(run.overhead["used"])
            account.measured.append(run.overhead["measured_steps"])
        return float(run.losses[1][-1])


def _by_hand(problem: Problem, epochs: int, stopwatch: Stopwatch) -> float:
    """Plain torch over the batches the loop takes, keeping the losses as anyone does."""
    torch.manual_seed(0)
    model, losses = problem.model(), list[float]()
    order = Order(Draw.RESHUFFLED, len(problem.train), BATCH_SIZE, seed=0)
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)
    stopwatch.start()
    for step in range(epochs * order.steps_per_epoch):
        batch = problem.train.batch(order.batch(step))
        optimizer.zero_grad()
        loss = problem.loss(model, batch).mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    stopwatch.stop()
    return losses[-1]
