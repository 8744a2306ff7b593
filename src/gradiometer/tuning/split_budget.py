"""`split_budget`: many short runs or one long run, for the best ensemble that a budget can buy."""

import base64
import hashlib
import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor, nn

from gradiometer.arguments import check_level
from gradiometer.errors import BadArgument, Unsupported, bounded
from gradiometer.exploration.ensembles.calibration import LogProbabilities
from gradiometer.exploration.ensembles.ensemble_forecast import LOSSES
from gradiometer.exploration.ensembles.ensemble_size import validation_mask
from gradiometer.exploration.ensembles.snapshots import Snapshot
from gradiometer.exploration.ensembles.split_race import Race, check_counts
from gradiometer.jobs.choice import opened
from gradiometer.jobs.job import Job, Outcome
from gradiometer.jobs.ledger import Ledger
from gradiometer.jobs.pool import Pool
from gradiometer.measurement.batch import Order
from gradiometer.measurement.loss import supervised
from gradiometer.measurement.reading import Draw
from gradiometer.problems.examples import Examples
from gradiometer.problems.predictions import held_out_labels, log_probabilities
from gradiometer.problems.problem import Problem
from gradiometer.randomness import untouched_randomness
from gradiometer.run.budget import Budget
from gradiometer.run.configuration import Configuration
from gradiometer.run.ranks import Ranks
from gradiometer.run.settings.values import SCHEDULES
from gradiometer.storage.disk import writing
from gradiometer.train.brief import advance
from gradiometer.train.ensemble import FEWEST_HELD_OUT
from gradiometer.train.preparation import device_of, name_of_run, new_model
from gradiometer.train.training import Training
from gradiometer.tuning.split import BudgetSplit, judged

MEMBERS = (1, 2, 4, 8)
"""Default numbers of members to choose from."""

CHOOSING = 0.5
"""Share of the held-out examples that choose. The others are scored."""

FILE = "members.jsonl"

TrainMember = Callable[[nn.Module, int, int], object]
"""Trains a new model in place: called with the model, its number of steps and its seed."""

Progress = Callable[[str, int], None]
"""Called after every member with its name and the number of members so far."""


@bounded
def split_budget(
    model: Callable[[], nn.Module],
    train: TrainMember,
    *,
    held_out: tuple[Any, Tensor],
    steps: int,
    members: Sequence[int] = MEMBERS,
    score: str = "brier",
    level: float = 0.9,
    seed: int = 0,
    pool: str | Pool = "here",
    threads: int = 1,
    out: Path | None = None,
    progress: Progress | None = None,
) -> BudgetSplit:
    """Choose how to split a budget into the members of an ensemble: one long run, or M runs of steps/M.

    A race trains one full run and a pair of members of the other splits, the middle one first. From a pair it
    forecasts the score of the whole ensemble (see `ensemble_forecast`), and it leaves out the splits that are not
    expected to win. The best split then gets the rest of its members. All that was trained can be used together:
    `.ensemble` has the weights with the lowest log-loss on the examples that choose. The race costs 1.5 to 3.25 times
    the budget.

    Half of the held-out examples choose; the scores are of the other half.

    Args:
        model: Makes a new model, from inputs to logits [examples, classes]. The random generators are seeded before.
        train: Called as `train(model, steps, seed)`; trains the model in place. Its learning rate should go to zero
            over these steps, and the order of its data should follow the seed.
        held_out: Inputs and classes of at least 180 examples that are not trained on.
        steps: The budget: steps of one full run.
        members: Numbers of members to choose from.
        score: The score that is compared: "brier", "nll" or "calibrated_nll".
        level: Confidence level of every interval.
        seed: Seed of the race. Each member has a seed of its own.
        pool: Where members are trained: "here", "processes", "processes:4", "ray", or a `Pool`. Same numbers.
        threads: Number of threads of torch for a member.
        out: A folder in which the members are kept: a race that was stopped continues. Use another one if `train`
            changes.
        progress: Called after every member with its name and the number of members so far.

    Raises:
        BadArgument: An argument cannot be used.
        Unsupported: There are too few held-out examples, or it is no classification.
        UserCodeFailed: The model raised, or a member diverged.

    Example:
        >>> import torch
        >>> from gradiometer.tuning import split_budget
        >>> points = torch.randn(600, 2, generator=torch.Generator().manual_seed(0))
        >>> classes = (points.sum(dim=1) > 0).long()
        >>> def train(model, steps, seed):
        ...     optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        ...     scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        ...     for batch in torch.randint(200, (steps, 20), generator=torch.Generator().manual_seed(seed)):
        ...         optimizer.zero_grad()
        ...         torch.nn.functional.cross_entropy(model(points[batch]), classes[batch]).backward()
        ...         optimizer.step()
        ...         scheduler.step()
        >>> found = split_budget(
        ...     lambda: torch.nn.Linear(2, 2), train, held_out=(points[200:], classes[200:]), steps=100
        ... )
        >>> found.chosen.words, found.scores["error"].value < 0.05
        ('1 run of 100 steps', True)
    """
    problem = Problem(
        "held-out examples",
        model,
        supervised(nn.CrossEntropyLoss(reduction="none")),
        Examples(held_out),
        Examples(held_out),
    )
    return _raced(
        problem, train, steps=steps, members=members, score=score, level=level, seed=seed, pool=pool, threads=threads,
        out=out, progress=progress, device=torch.device("cpu"), plan="",
    )  # fmt: skip


@bounded
def split_problem(
    problem: Problem,
    configuration: Configuration,
    out: Path,
    *,
    members: Sequence[int] = MEMBERS,
    score: str = "brier",
    pool: str | Pool = "here",
    progress: Progress | None = None,
) -> BudgetSplit:
    """Choose how to split a training that a configuration describes, see `split_budget`.

    A race that was stopped continues from its finished members if it is asked again.

    Args:
        problem: What to train on, with test examples.
        configuration: How: its schedule, by name, is stretched to the length of each member.
        out: Folder of the runs, below which the race gets a folder of its own.
        members: Numbers of members to choose from.
        score: The score that is compared: "brier", "nll" or "calibrated_nll".
        pool: Where members are trained.
        progress: Called after every member.

    Raises:
        BadArgument: The configuration cannot be split, or an argument cannot be used.
        Unsupported: There are too few test examples, or it is no classification.
        Diverged: A member diverged.

    Example:
        >>> from pathlib import Path
        >>> from gradiometer import Configuration
        >>> from gradiometer.problems import load
        >>> from gradiometer.tuning import split_problem
        >>> configuration = Configuration(schedule="cosine", steps=120, learning_rate=0.2)
        >>> found = split_problem(load("digits"), configuration, Path("runs"), members=(1, 2))
        >>> [split.words for split in found.splits]
        ['1 run of 120 steps', '2 runs of 60 steps']
    """
    if configuration.schedule not in SCHEDULES or configuration.snapshots:
        raise BadArgument(
            "`schedule` must be cosine, linear, trapezoid or constant, whose shape follows the length of a member, and "
            "without `snapshots`."
        )
    for name, off in (("cool", "off"), ("fork_budget", 0.0), ("guard", None)):
        if getattr(configuration, name) != off:
            raise BadArgument(f"`{name}` changes the rate on the way and does not follow the length: leave it out.")
    if configuration.optimizer == "schedulefree":
        raise BadArgument("`optimizer` schedulefree has no length to split: use sgd or adamw.")
    order = Order(Draw(configuration.sampling), len(problem.train), configuration.batch_size, configuration.seed)
    configuration = msgspec.structs.replace(configuration, checkpoint_at="")
    steps = configuration.steps or configuration.epochs * order.steps_per_epoch
    return _raced(
        problem, partial(_train, problem, configuration), steps=steps, members=members, score=score,
        level=configuration.level, seed=configuration.seed, pool=pool, threads=configuration.threads,
        out=out / f"{name_of_run(problem)}-split", progress=progress,
        device=device_of(configuration.device, Ranks()), plan=repr(configuration.to_dict()),
    )  # fmt: skip


def _train(problem: Problem, configuration: Configuration, model: nn.Module, steps: int, seed: int) -> None:
    """Train a new model of a problem in place."""
    own = msgspec.structs.replace(configuration, steps=steps, seed=seed)
    training = Training(replace(problem, model=lambda: model), own, Budget(0.0), gauges=())
    training.model.train()
    advance(training, steps)


def _raced(
    problem: Problem,
    train: TrainMember,
    *,
    steps: int,
    members: Sequence[int],
    score: str,
    level: float,
    seed: int,
    pool: str | Pool,
    threads: int,
    out: Path | None,
    progress: Progress | None,
    device: torch.device,
    plan: str,
) -> BudgetSplit:
    counts = check_counts(members, steps)
    check_level(level)
    if score not in LOSSES:
        raise BadArgument(f"`score` must be one of {', '.join(LOSSES)}, got {score!r}.")
    labels = held_out_labels(problem)
    if not len(labels) >= 2 * FEWEST_HELD_OUT:
        raise Unsupported(
            f"Splits are compared on at least {2 * FEWEST_HELD_OUT} held-out examples, got {len(labels)}: hold out "
            "more."
        )
    with untouched_randomness(seed, []):
        start = Snapshot.of(new_model(problem), 1, 0).digest
    race = Race(labels, validation_mask(len(labels), share=CHOOSING), score, level)
    with opened(pool) as where:
        team = _Team(
            problem, train, where, seed, threads, out, progress, device, f"{plan} {problem.fingerprint} {start}"
        )
        best = race.run(team, counts, steps)
    tried = {lane.members for lane in race.lanes}
    return judged(
        race,
        best,
        steps=steps,
        untried=[count for count in counts if count not in tried],
        snapshots=[team.snapshots[lane.members] for lane in race.lanes],
        model=problem.model,
    )


class _Team:
    """Trains members in a pool. Finished members are kept in a folder, if there is one."""

    def __init__(
        self,
        problem: Problem,
        train: TrainMember,
        pool: Pool,
        seed: int,
        threads: int,
        out: Path | None,
        progress: Progress | None,
        device: torch.device,
        plan: str,
    ) -> None:
        self.problem, self.train, self.pool, self.seed, self.threads = problem, train, pool, seed, threads
        self.progress, self.device = progress, device
        self.plan = hashlib.sha256(plan.encode()).hexdigest()[:8]
        self.ledger: Ledger | None = None
        if out is not None:
            with writing(out):
                out.mkdir(parents=True, exist_ok=True)
            self.ledger = Ledger(out / FILE, encode=_encoded, decode=_decoded)
        self.snapshots: dict[int, list[Snapshot]] = {}

    def __call__(self, members: int, steps: int, numbers: Sequence[int]) -> list[LogProbabilities]:
        """Train these members of a split. Returns what each predicts for all held-out examples."""
        names = {number: f"member {number + 1} of {members}, {steps} steps, {self.plan}" for number in numbers}
        jobs = [
            Job(
                name,
                _member,
                (number, steps, self._seed(members, number)),
                self._seed(members, number),
                float(self.threads),
            )
            for number, name in names.items()
        ]
        done: dict[str, Snapshot] = {}
        for outcome in self.pool.run(jobs, shared=(self.problem.model, self.train), ledger=self.ledger):
            done[outcome.name] = outcome.value()
            self._tell(outcome, len(done))
        trained = [done[name] for name in names.values()]
        self.snapshots.setdefault(members, []).extend(trained)
        return [self._said(snapshot) for snapshot in trained]

    def _seed(self, members: int, number: int) -> int:
        return zlib.crc32(f"{self.seed}/{members}/{number}".encode())

    def _tell(self, outcome: Outcome, more: int) -> None:
        if self.progress is not None:
            self.progress(outcome.name.rpartition(",")[0], sum(map(len, self.snapshots.values())) + more)

    def _said(self, snapshot: Snapshot) -> LogProbabilities:
        with untouched_randomness(self.seed, []):
            model = new_model(self.problem)
        snapshot.load_into(model)
        return log_probabilities(self.problem, model.to(self.device), self.device)


def _member(shared: tuple[Callable[[], nn.Module], TrainMember], number: int, steps: int, seed: int) -> Snapshot:
    """A member, trained from its start."""
    make, train = shared
    model = make()
    train(model, steps, seed)
    return Snapshot.of(model, number + 1, steps)


def _encoded(snapshot: Snapshot) -> str:
    return base64.b64encode(snapshot.to_bytes()).decode()


def _decoded(text: str) -> Snapshot:
    return Snapshot.from_bytes(base64.b64decode(text), "a finished member")
