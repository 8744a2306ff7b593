"""`tune_problem`: tune a training that a configuration describes, and its configuration with the choice."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from gradiometer.convergence.formulas.number import Amount
from gradiometer.errors import BadArgument, bounded
from gradiometer.jobs.pool import Pool
from gradiometer.jobs.threads import threads
from gradiometer.loop.data import Ordered
from gradiometer.loop.recorded.growing import Progress
from gradiometer.loop.recorded.record import FOLDER
from gradiometer.measurement.batch import Order
from gradiometer.measurement.reading import Draw
from gradiometer.problems.model import new_model
from gradiometer.problems.problem import Problem
from gradiometer.run.configuration import Configuration
from gradiometer.run.ranks import Ranks
from gradiometer.storage.disk import replace_file, writing
from gradiometer.train.preparation import device_of, name_of_run, seed_everything
from gradiometer.tuning.aim import Aim
from gradiometer.tuning.of_loop import tune
from gradiometer.tuning.task import BUDGET
from gradiometer.tuning.tuned import Tuned
from gradiometer.tuning.variants import Amounts, Optimizers

FILE = "tuned.toml"


@dataclass(frozen=True, eq=False)
class ProblemTuned:
    """A tuning of a problem.

    Args:
        tuned: What it chose.
        configuration: The configuration with the choice in it.
        path: Its folder: the branches in `forks`, and after `save` `tuned.toml`.
    """

    tuned: Tuned
    configuration: Configuration
    path: Path

    def save(self) -> Path:
        """Write the configuration as `tuned.toml`, which `gradiometer train --config` takes. Returns its path.

        Raises:
            StorageFailed: It cannot be written.
        """
        with writing(self.path):
            replace_file(self.path / FILE, self.configuration.to_toml().encode())
        return self.path / FILE

    def with_forks(self, budget: Amount) -> "ProblemTuned":
        """The same, with a training whose forks may cost what the tuning has left of a budget.

        Args:
            budget: The most that tuning and forks may cost, in units of the training.
        """
        left = round(max(float(budget) - self.tuned.cost, 0.0), 4)
        return replace(self, configuration=msgspec.structs.replace(self.configuration, fork_budget=left))

    @property
    def forks(self) -> Path:
        """The folder of its branches, with which a run that is trained by the choice begins: see `train`."""
        return self.path / FOLDER


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
    """Choose the learning rate of a training that a configuration describes.

    A tuning that was stopped continues from its finished branches if it is asked again.

    Args:
        problem: What to train on.
        configuration: How: its rate and schedule are chosen, everything else is kept.
        out: Folder of the runs, below which the tuning gets a folder of its own.
        budget: The most that tuning may cost, in units of the training.
        optimizer: Several optimizers to choose from, such as "sgd,adamw". Default: that of the configuration.
        momentum: Several momenta of SGD to choose from, such as (0, 0.9). Default: that of the configuration.
        weight_decay: Several weight decays to choose from. Default: that of the configuration.
        batch_size: Several batch sizes to choose from; the steps are those of the first. Default: that of the
            configuration.
        aim: What is the same for several batch sizes, "examples" or "time".
        pool: Where branches are trained.
        progress: Called after every branch.

    Raises:
        BadArgument: The configuration cannot be tuned, or the budget is too small.
        UserCodeFailed: The model or the loss raised.

    Example:
        >>> from pathlib import Path
        >>> from gradiometer import Configuration
        >>> from gradiometer.problems import load
        >>> from gradiometer.tuning import tune_problem
        >>> configuration = Configuration(problem="quadratic", batch_size=10, steps=100, momentum=0.9, nesterov=True)
        >>> made = tune_problem(load("quadratic"), configuration, Path("runs"))
        >>> made.configuration.schedule, made.save().name
        ('trapezoid', 'tuned.toml')
    """
    if configuration.accumulation > 1:
        raise BadArgument(
            "`accumulation` above 1 changes no rate: tune without it, and give it to the training afterwards."
        )
    if len(batch_size) > 1 and configuration.sampling != "reshuffled":
        raise BadArgument("`sampling` must be reshuffled to choose between batch sizes.")
    if configuration.cool != "off" or configuration.snapshots:
        raise BadArgument("`cool` and `snapshots` choose the rate in other ways than tuning: leave them out.")
    if batch_size:
        configuration = msgspec.structs.replace(configuration, batch_size=batch_size[0])
    device = device_of(configuration.device, Ranks())
    seed_everything(configuration.seed)
    model = new_model(problem).to(device).train()
    data = problem.train.to(device)
    order = Order(Draw(configuration.sampling), len(data), configuration.batch_size, configuration.seed)
    steps = configuration.steps or configuration.epochs * order.steps_per_epoch
    reshuffled = order.draw is Draw.RESHUFFLED
    path = out / f"{name_of_run(problem)}-tuning"
    with threads(configuration.threads):
        tuned = tune(
            model,
            loss=problem.loss,
            batches=data if reshuffled else Ordered(data, order.batch_size, order.draw),
            batch_size=(batch_size or order.batch_size) if reshuffled else None,
            aim=aim,
            steps=steps,
            budget=budget,
            optimizer=configuration.optimizer if optimizer is None else optimizer,
            momentum=configuration.momentum if momentum is None else momentum,
            nesterov=configuration.nesterov,
            weight_decay=configuration.weight_decay if weight_decay is None else weight_decay,
            seed=configuration.seed,
            pool=pool,
            threads=configuration.threads,
            out=path,
            progress=progress,
        )
    plain = {"momentum": 0.0, "nesterov": False}  # of an optimizer without momentum
    settings = plain | tuned.settings
    chosen = msgspec.structs.replace(configuration, **settings)
    return ProblemTuned(tuned, chosen, path)
