"""`RunLane`: a lane that is a run on disk, with readings, losses and a page, from its first step
on."""

import hashlib
from pathlib import Path
from typing import Any

import msgspec

from gradiometer.errors import Diverged
from gradiometer.loop.loop import Loop
from gradiometer.problems.problem import Problem
from gradiometer.run.configuration import Configuration
from gradiometer.run.folder import RunFolder, run_folders
from gradiometer.run.reader import Run
from gradiometer.run.recorder import Recorder
from gradiometer.storage.disk import remove_folder
from gradiometer.train.forking.run_loop import loop_at
from gradiometer.train.loop import resume, train
from gradiometer.train.training import Training
from gradiometer.tuning.lane import MeanLoss
from gradiometer.tuning.optimizers import Made


class RunLane:
    """A lane that is a run on disk: if it is stopped, it goes on from its last checkpoint.
    Attributes as of `Lane`.

    Args:
        problem: What is trained.
        configuration: How, apart from what a tuning chooses.
        folder: Folder of the lanes.
        start: The training at its start, with the optimizer at this rate.
        made: The optimizer.
        rate: Its rate.
        size: Examples of an update.
        steps: Updates of the whole training.

    Attributes:
        configuration: The configuration of the run.
    """

    def __init__(
        self,
        problem: Problem,
        configuration: Configuration,
        folder: Path,
        start: Loop,
        made: Made,
        rate: float,
        size: int,
        steps: int,
    ) -> None:
        self.problem = problem
        self.made = made
        self.rate = rate
        self.size = size
        self.steps = steps
        # of one without momentum
        settings: dict[str, Any] = {
            "momentum": 0.0,
            "nesterov": False,
            **made.settings,
        }
        self.configuration: Configuration = msgspec.structs.replace(
            configuration,
            optimizer=made.name,
            learning_rate=rate,
            schedule="constant" if made.is_schedule_free else "trapezoid",
            steps=steps,
            batch_size=size,
            clip=made.clip,
            **settings,
        )
        told = f"{self.configuration.to_toml()}{problem.fingerprint}{start.digest()}"
        digits = hashlib.sha256(told.encode()).hexdigest()[:16]
        self.name = f"{made.words} at {rate:.4g}, {digits}"
        self.folder = folder / digits
        self.stops: list[int] = []

    @property
    def path(self) -> Path | None:
        """The folder of the run; None before it is trained."""
        return next(iter(run_folders(self.folder)), None)

    def advance(self, mean: MeanLoss | None = None) -> Loop | None:
        """Train the run to the last stop."""
        path, stop = self.path, self.stops[-1]
        # it was stopped on the way, where the mean is not kept
        if path is not None and mean is not None:
            remove_folder(path)
            path = None
        try:
            if path is None:
                watcher = None if mean is None else _Taking(mean)
                run = train(
                    self.problem, self.configuration, self.folder, watcher, name="lane", until=stop
                )
            else:
                run = Run.open(path)
                if run.status == "diverged":
                    return None
                if run.steps < stop:
                    run = resume(path, problem=self.problem, until=stop)
        except Diverged:
            return None
        return loop_at(run, stop, problem=self.problem)


class _Taking:
    """A watcher that takes the parameters into a mean."""

    def __init__(self, mean: MeanLoss) -> None:
        self.mean = mean

    def begin(self, training: Training, recorder: Recorder, folder: RunFolder) -> None:
        """The run starts."""

    def warn(self, text: str) -> None:
        """A warning, which the run has on record."""

    def update(self, training: Training, recorder: Recorder, loss: float) -> None:
        """A step was made."""
        self.mean.take(training.model, training.step)
