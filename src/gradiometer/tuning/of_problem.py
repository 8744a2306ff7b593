"""`tune_problem`: tune a training that a configuration describes. The winner is a run, and goes on
as the training; the rungs of the race are kept as forks."""

import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import cast

import msgspec

from gradiometer.convergence.formulas.number import Amount
from gradiometer.errors import BadArgument, Diverged, bounded
from gradiometer.jobs.job import Job, threads
from gradiometer.jobs.pool import Here, Pool
from gradiometer.loop.changes.alternative import Alternative, BatchSize
from gradiometer.loop.data import Ordered
from gradiometer.loop.loop import Loop
from gradiometer.loop.recorded.record import ForkRecord, Plan
from gradiometer.measurement.batch import Order
from gradiometer.measurement.reading import Draw
from gradiometer.problems.problem import Problem, new_model
from gradiometer.randomness import seed_everything
from gradiometer.run.configuration import Configuration
from gradiometer.run.folder import RunFolder, run_folders
from gradiometer.run.ranks import Ranks
from gradiometer.run.reader import Run
from gradiometer.run.trust import CODE, SIGNATURE
from gradiometer.storage.disk import one_at_a_time, remove_folder, replace_file, writing
from gradiometer.train import loop_at, resume, train
from gradiometer.train.training import device_of, hold_out, name_of_run
from gradiometer.tuning.lane import LIMIT, Lane, MeanParameters
from gradiometer.tuning.optimizers import Amounts, Made, Optimizers
from gradiometer.tuning.start import Aim
from gradiometer.tuning.tuned import Tuned
from gradiometer.tuning.tuning import BUDGET, CLIP, Progress, run_race

FILE = "tuned.toml"

# Share of the training examples that the aim "test" holds out, as is usual.
HELD_OUT = 0.1

# What a new run folder writes into its manifest itself.
WRITTEN = ("format", "name", "created", SIGNATURE, CODE)


class RunLane(Lane):
    """A lane that is a run on disk: if it is stopped, it goes on from its last checkpoint.

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
        super().__init__(made, rate, size, steps)
        self.problem = problem
        # those of an optimizer without momentum
        settings = {"momentum": 0.0, "nesterov": False, **made.settings}
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
        of = f"{self.configuration.to_toml()}{problem.fingerprint}{start.digest()}"
        digits = hashlib.sha256(of.encode()).hexdigest()[:16]
        self.name = f"{made.words} at {rate:.4g}, {digits}"
        self.folder = folder / digits

    @property
    def path(self) -> Path | None:
        """The folder of the run; None before it is trained."""
        return next(iter(run_folders(self.folder)), None)

    def advance(self, mean: MeanParameters | None = None) -> Loop | None:
        """Train the run to the last stop."""
        path, stop = self.path, self.stops[-1]
        # A run that was stopped in its last quarter begins again, since the mean is not kept.
        if path is not None and mean is not None and Run.open(path).steps > mean.since:
            remove_folder(path)
            path = None
        try:
            if path is None:
                run = train(
                    self.problem, self.configuration, self.folder, mean, name="lane", until=stop
                )
            else:
                run = Run.open(path)
                if run.status == "diverged":
                    return None
                if run.steps < stop:
                    run = resume(path, mean, problem=self.problem, until=stop)
        except Diverged:
            return None
        return loop_at(run, stop, problem=self.problem)


@dataclass(frozen=True, eq=False)
class ProblemTuned:
    """A tuning of a problem.

    Args:
        tuned: What it chose.
        configuration: The configuration with the choice in it.
        path: Its folder: the lanes as runs in `lanes`, the rungs of the race in `forks`, and after
            `save` `tuned.toml`.
    """

    tuned: Tuned
    configuration: Configuration
    path: Path

    def save(self) -> Path:
        """Write the configuration as `tuned.toml`, which `gradiometer train --config` takes.
        Returns its path.

        Raises:
            StorageFailed: It cannot be written.
        """
        with writing(self.path):
            replace_file(self.path / FILE, self.configuration.to_toml().encode())
        return self.path / FILE

    def begin(self, out: Path, name: str | None = None, fork_budget: Amount = 0.0) -> Path:
        """The winner as a new run, with its record from the first step on and the rungs of the race
        as forks.

        `resume` trains it to its end.

        Args:
            out: Folder of the runs.
            name: Name of the run, to which a number is added. Default: problem and model.
            fork_budget: What forks on the way may cost, as in a configuration.

        Returns:
            The folder of the run.
        """
        lane = cast("RunLane", self.tuned.lane)
        lane.advance()  # nothing, unless it was trained elsewhere, or deleted
        source = RunFolder.open(cast("Path", lane.path))
        configuration = msgspec.structs.replace(self.configuration, fork_budget=float(fork_budget))
        manifest = {key: value for key, value in source.manifest.items() if key not in WRITTEN}
        manifest["configuration"] = configuration.to_dict()
        made = RunFolder.create(
            out, name or name_of_run(lane.problem), manifest, self.path / "forks"
        )
        # The run has its record from the first step on, and goes on from the lane's checkpoint.
        with writing(made.path):
            for file in source.path.glob("*.jsonl"):
                shutil.copy2(file, made.path / file.name)
            shutil.copytree(source.checkpoints_path, made.checkpoints_path, dirs_exist_ok=True)
        return made.path


@bounded
def tune_problem(
    problem: Problem,
    configuration: Configuration,
    out: Path,
    *,
    budget: Amount = BUDGET,
    optimizer: Optimizers | None = None,
    momentum: Amounts | None = None,
    weight_decay: Amounts | None = None,
    batch_size: Sequence[int] = (),
    aim: Aim | None = None,
    pool: Pool | str = "here",
    progress: Progress | None = None,
) -> ProblemTuned:
    """Choose the optimizer and the learning rate of a training that a configuration describes.

    The lanes of the race are runs. A tuning that was stopped continues from their checkpoints if
    it is called again.

    Args:
        problem: What to train on.
        configuration: How: what is chosen is replaced, everything else is kept.
        out: Folder of the runs, below which the tuning gets a folder.
        budget: The most that tuning may cost besides the training, in units of the training.
        optimizer: Several optimizers to choose from, such as "sgd,adamw". Default: that of the
            configuration.
        momentum: Several momenta of SGD to choose from, such as (0, 0.9). Default: that of the
            configuration.
        weight_decay: Several weight decays to choose from. Default: that of the configuration.
        batch_size: Several batch sizes to choose from; the steps are those of the first. Default:
            that of the configuration.
        aim: The loss that lanes are compared by, see `tune`. With "test" the configuration holds
            out a tenth of the training examples, unless it gives another share; the final test set
            is not looked at.
        pool: Where lanes are trained.
        progress: Called with a sentence after every lane of every rung.

    Raises:
        BadArgument: The configuration cannot be tuned, or the budget is too small.
        UserCodeFailed: The model or the loss raised.

    Example:
        >>> from pathlib import Path
        >>> from gradiometer import Configuration
        >>> from gradiometer.problems import load
        >>> from gradiometer.train import resume
        >>> from gradiometer.tuning import tune_problem
        >>> configuration = Configuration(problem="quadratic", batch_size=10, steps=100, momentum=0.9, nesterov=True)
        >>> made = tune_problem(load("quadratic"), configuration, Path("runs"))
        >>> made.configuration.schedule, resume(made.begin(Path("runs"), "tuned")).steps
        ('trapezoid', 100)
    """
    if configuration.accumulation > 1:
        raise BadArgument(
            "`accumulation` above 1 changes no rate: tune without it, and give it to the training "
            "afterwards."
        )
    if len(batch_size) > 1 and configuration.sampling != "reshuffled":
        raise BadArgument("`sampling` must be reshuffled to choose between batch sizes.")
    if configuration.cool != "off" or configuration.snapshots:
        raise BadArgument(
            "`cool` and `snapshots` choose the rate in other ways than tuning: leave them out."
        )
    if batch_size:
        configuration = msgspec.structs.replace(configuration, batch_size=batch_size[0])
    if aim == "test" and not configuration.held_out:
        configuration = msgspec.structs.replace(configuration, held_out=HELD_OUT)
    elif aim != "test" and configuration.held_out:
        raise BadArgument("`held_out` is for the aim 'test': give both, or leave it out.")
    device = device_of(configuration.device, Ranks())
    # The lanes start from these parameters, since a run makes its model from the same seed.
    seed_everything(configuration.seed)
    model = new_model(problem).to(device).train()
    data, held_out = hold_out(problem.train, configuration)
    data = data.to(device)
    order = Order(
        Draw(configuration.sampling), len(data), configuration.batch_size, configuration.seed
    )
    reshuffled = order.draw is Draw.RESHUFFLED
    path = out / f"{name_of_run(problem)}-tuning"
    lanes = path / "lanes"
    with writing(lanes):
        lanes.mkdir(parents=True, exist_ok=True)
    # a second tuning of the same waits, and then finds the lanes of the first
    with threads(configuration.threads), one_at_a_time(lanes):
        tuned = run_race(
            partial(RunLane, problem, configuration, lanes),
            model,
            loss=problem.loss,
            batches=data if reshuffled else Ordered(data, order.batch_size, order.draw),
            batch_size=(batch_size or order.batch_size) if reshuffled else None,
            aim=aim,
            held_out=held_out,
            steps=configuration.steps or configuration.epochs * order.steps_per_epoch,
            budget=budget,
            optimizer=configuration.optimizer if optimizer is None else optimizer,
            momentum=configuration.momentum if momentum is None else momentum,
            nesterov=configuration.nesterov,
            weight_decay=configuration.weight_decay if weight_decay is None else weight_decay,
            clip=CLIP,
            seed=configuration.seed,
            pool=pool,
            threads=configuration.threads,
            out=path,
            progress=progress,
        )
        keep_forks(path, tuned)
    return ProblemTuned(tuned, cast("RunLane", tuned.lane).configuration, path)


def keep_forks(out: Path, tuned: Tuned) -> None:
    """Keep every rung of a race as a fork, whose baseline is the best lane of it."""
    for rung in tuned.rungs:
        best = rung[0]
        plan = Plan(
            best.updates,
            tuple(seen_from(best.lane, one.lane) for one in rung[1:]),
            1,
            best.result.horizon,
            tail="none",
            left=tuned.steps * tuned.batch_size,
            state=f"{best.lane.name} after {best.updates}",
            averaged=True,
        )
        record = ForkRecord.keep(out, plan)
        if record.finished:
            continue
        # the ledger has some of them, if a tuning was stopped here
        jobs = [
            Job(
                branch.name,
                partial(
                    replace,
                    one.result,
                    alternative=branch.alternative.name,
                    replicate=branch.replicate,
                    horizon=branch.horizon,
                    readouts={
                        name: readout
                        for name, readout in one.result.readouts.items()
                        if name != LIMIT
                    },
                ),
            )
            for branch, one in zip(plan.branches, rung, strict=True)
        ]
        list(Here().run(jobs, ledger=record.ledger()))
        record.finish()


def seen_from(best: Lane, lane: Lane) -> Alternative:
    """A lane as an alternative to the best one."""
    if lane.size != best.size:
        return BatchSize(lane.size / best.size, rate=float(f"{lane.rate / best.rate:.3g}"))
    return lane.made.alternative(lane.rate)
