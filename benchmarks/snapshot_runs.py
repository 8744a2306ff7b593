"""The runs of the snapshot study: plain torch, one at a time, each kept in a folder with one JSON
file, resumable.

A run that has its JSON is not trained again, so that a study that was killed goes on where it
stopped.
"""

import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from gradiometer import Draw, Problem, Schedule, SnapshotCollector
from gradiometer.convergence.schedules import Cosine, MultiStep, SnapshotCycle
from gradiometer.exploration.ensembles import SWAG, Snapshot
from gradiometer.measurement import Order
from gradiometer.run.artifacts import save_snapshot
from gradiometer.storage.disk import replace_file

BATCH_SIZE = 64
MEMBERS = 5
SEEDS = (0, 1, 2)
AT_ONCE = 1000

Labelled = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Regime:
    """How much there is to learn from, and for how long.

    Args:
        name: What it is called.
        images: Of the training set.
        epochs: Of a whole run; the short runs have a fifth.
    """

    name: str
    images: int
    epochs: int


@dataclass(frozen=True)
class Job:
    """One run.

    Args:
        regime: On what.
        method: cosine, step, snapshot or short.
        learning_rate: η₀.
        seed: Of the start and the order of the examples; methods of one seed share both.
        part: Which of the short runs.
    """

    regime: Regime
    method: str
    learning_rate: float
    seed: int
    part: int = 0

    @property
    def name(self) -> str:
        """Of its folder and its JSON."""
        part = f"-{self.part}" if self.method == "short" else ""
        return f"{self.regime.name}-{self.method}-{self.learning_rate:g}-seed{self.seed}{part}"

    @property
    def epochs(self) -> int:
        """Passes over its images."""
        return self.regime.epochs // MEMBERS if self.method == "short" else self.regime.epochs

    def schedule(self, steps: int) -> Schedule:
        """η over the steps of the run."""
        match self.method:
            case "snapshot":
                return SnapshotCycle(self.learning_rate, steps, MEMBERS)
            case "step":
                return MultiStep(self.learning_rate, (steps // 2, 3 * steps // 4))
            case _:
                return Cosine(self.learning_rate, steps)


FULL = Regime("full", 60_000, 20)
FEW = Regime("few", 12_000, 40)
REGIMES = {regime.name: regime for regime in (FULL, FEW)}
HOT = 0.2


def jobs(learning_rate: float = 0.1) -> Iterator[Job]:
    """All runs, what matters most first."""
    for regime in (FULL, FEW):
        for seed in SEEDS:
            for method in ("cosine", "step", "snapshot"):
                yield Job(regime, method, learning_rate, seed)
            for part in range(MEMBERS):
                yield Job(regime, "short", learning_rate, seed, part)
    for regime in (FULL, FEW):
        for seed in SEEDS:
            yield Job(regime, "snapshot", HOT, seed)


def small_cnn() -> nn.Module:
    """Halved images, two 3 × 3 convolutions of 16 and 32 channels, then 1568-24-10: 42,706
    parameters."""
    return nn.Sequential(
        nn.AvgPool2d(2),
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 7 * 7, 24),
        nn.ReLU(),
        nn.Linear(24, 10),
    )


def images_of(problem: Problem, regime: Regime) -> tuple[Labelled, Labelled]:
    """The regime's training images, a fixed draw of all, and the test images."""
    chosen = torch.randperm(len(problem.train), generator=torch.Generator().manual_seed(0))[
        : regime.images
    ]
    if problem.test is None:
        raise ValueError("the study needs test images")
    return problem.train.batch(chosen), problem.test.batch(torch.arange(len(problem.test)))


def trained(job: Job, train: Labelled, test: Labelled, out: Path) -> None:
    """Train, keep the models, and write the JSON last."""
    torch.manual_seed(1000 * (job.part + 1) + job.seed if job.method == "short" else job.seed)
    model = small_cnn()
    order = Order(Draw.RESHUFFLED, len(train[0]), BATCH_SIZE, seed=100 * job.part + job.seed)
    steps = job.epochs * order.steps_per_epoch
    schedule, folder = job.schedule(steps), out / job.name
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=job.learning_rate,
        momentum=0.9,
        nesterov=True,
        weight_decay=1e-4,
        fused=True,
    )
    scheduler = schedule.scheduler(optimizer)
    cycle = (
        schedule
        if isinstance(schedule, SnapshotCycle)
        else SnapshotCycle(job.learning_rate, steps, MEMBERS)
    )
    collector = SnapshotCollector(cycle, partial(save_snapshot, folder))
    average, curve, began, total = SWAG(model), [], time.process_time(), torch.zeros(())
    for step in range(steps):
        index = order.batch(step)
        optimizer.zero_grad()
        loss = F.cross_entropy(model(train[0][index]), train[1][index])
        loss.backward()
        optimizer.step()
        scheduler.step()
        total += loss.detach()
        if job.method in ("snapshot", "step"):
            collector.after(step, model)
        if (step + 1) % order.steps_per_epoch == 0:
            epoch = (step + 1) // order.steps_per_epoch
            curve.append((epoch, float(total) / order.steps_per_epoch, error(model, test)))
            total.zero_()
            if job.method == "step" and epoch > job.epochs // 2:
                average.update(model)
    if job.method == "step":
        save_snapshot(folder / "average", Snapshot.of(average.average.module, 1, steps))
    save_snapshot(
        folder, Snapshot.of(model, MEMBERS if job.method in ("snapshot", "step") else 1, steps)
    )
    record = {
        **asdict(job),
        "schedule": repr(schedule),
        "steps": steps,
        "seconds": time.process_time() - began,
        "curve": curve,
    }
    replace_file(out / f"{job.name}.json", json.dumps(record).encode())


def error(model: nn.Module, test: Labelled) -> float:
    """Share of the test images whose label is not found."""
    with torch.no_grad():
        wrong = [
            (model(images).argmax(1) != labels).sum()
            for images, labels in zip(test[0].split(AT_ONCE), test[1].split(AT_ONCE), strict=True)
        ]
    return float(torch.stack(wrong).sum()) / len(test[1])
