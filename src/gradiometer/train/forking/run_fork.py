"""`fork_run`: what would have happened in a run of `gradiometer train`."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

from gradiometer.errors import BadArgument, bounded
from gradiometer.forks.alternatives.alternative import Alternative, GoOn, Together
from gradiometer.forks.alternatives.text import alternative_of
from gradiometer.forks.alternatives.updates import Skip
from gradiometer.forks.branch import Branch, Tail
from gradiometer.forks.comparison.rungs import Rung, rungs_for
from gradiometer.forks.engine import grown
from gradiometer.forks.horizon import Horizon
from gradiometer.forks.recorded.growing import Progress, check_fits, grow
from gradiometer.forks.recorded.plan import Plan
from gradiometer.forks.recorded.record import ForkRecord
from gradiometer.jobs.choice import opened
from gradiometer.jobs.pool import Pool
from gradiometer.measurement.batch import Order
from gradiometer.measurement.reading import Draw
from gradiometer.problems.problem import Problem
from gradiometer.run.checkpoints import checkpoint_steps
from gradiometer.run.reader import Run
from gradiometer.train.forking.order import examples_before
from gradiometer.train.forking.run_state import RunSource
from gradiometer.train.restoring.recorded import configuration_of, problem_of
from gradiometer.train.restoring.replay import state_at

REPLICATES, HORIZON = 4, "25%"
"""Defaults."""

FEWEST = 16
"""Fewest updates of a branch in a race."""

TIMED = 8
"""Number of updates that are timed for a horizon in seconds."""


@dataclass(frozen=True)
class RunFork:
    """A fork of a run: its record, and what was noticed while the state was made.

    Args:
        record: The fork on disk.
        was_finished: True if nothing had to be trained.
        warnings: Sentences about the state that the branches start from.
    """

    record: ForkRecord
    was_finished: bool
    warnings: tuple[str, ...] = ()


@bounded
def fork_run(
    run: Run,
    alternatives: Sequence[Alternative | str],
    *,
    at: int | None = None,
    horizon: str | None = None,
    replicates: int | None = None,
    tail: Tail = "linear",
    budget: float | None = None,
    pool: Pool | str = "here",
    seed: int = 0,
    problem: Problem | None = None,
    begin: Callable[[Plan], object] | None = None,
    progress: Progress | None = None,
) -> RunFork:
    """Train branches from a step of a run, and keep them in its folder. The run itself is not touched.

    A fork with the same arguments continues from the branches that are finished.

    Args:
        run: The run, finished or under way.
        alternatives: Alternatives or their texts, such as "rate 2x". They are compared with going on as it is.
        at: Number of updates before the fork. Default: `default_step`.
        horizon: Length of a branch: "500 updates", "2 epochs", "64_000 examples", "10 s", or "25%" of what is left,
            which is the default.
        replicates: Number of data orders, each common to all alternatives. Default: 4.
        tail: How the rate of every branch ends: "linear", "half", "third" or "none".
        budget: In place of `horizon` and `replicates`: the most that all branches may cost together, in units of the
            whole run. Alternatives race over growing horizons, and those that are clearly worse are stopped.
        pool: Where the branches are trained: "here", "processes", "processes:4", "ray", or a pool.
        seed: Seed of the data orders and of the random draws.
        problem: The problem of the run, if it is loaded already.
        begin: Called with the plan before the first branch.
        progress: Called after every branch with its result, and the numbers of finished branches and of all.

    Raises:
        BadArgument: An argument cannot be used, or does not fit the run.
        GradiometerError: A branch failed. Finished branches are kept.

    Example:
        >>> from pathlib import Path
        >>> from gradiometer import Configuration
        >>> from gradiometer.problems import load
        >>> from gradiometer.train import fork_run, train
        >>> configuration = Configuration(problem="quadratic", batch_size=10, epochs=1, budget=0.0)
        >>> run = train(load("quadratic"), configuration, Path("runs"))
        >>> made = fork_run(run, ["rate 2x", "batch 2x, rate sqrt"], horizon="20 updates", replicates=2)
        >>> made.record.plan.step, [effect.alternative for effect in made.record.fork.effects()]
        (100, ['rate 2x', 'batch 2x, rate 1.41x'])
    """
    configuration = configuration_of(run, "fork")
    chosen = tuple(map(alternative_of, alternatives))
    step = default_step(run) if at is None else at
    steps = _checked_step(run, step)
    problem = problem or problem_of(run, "fork")
    order = Order(Draw(configuration.sampling), len(problem.train), configuration.batch_size, configuration.seed)
    left = examples_before(order, steps) - examples_before(order, step)
    rungs = _rungs(budget, horizon, replicates, alternatives=1 + len(chosen), order=order, steps=steps, left=left)
    own_until = _last_skipped(chosen)

    @cache
    def source() -> RunSource:
        """Made once, and only if it is needed: the steps since the last checkpoint are repeated."""
        return RunSource(
            configuration, state_at(run, step, "fork", problem), seed=seed, own_until=own_until, problem=problem
        )

    if rungs:
        length, many = rungs[-1].horizon, rungs[-1].replicates
    else:
        length = branch_length(Horizon.parse(HORIZON if horizon is None else horizon), order, left, source)
        many = REPLICATES if replicates is None else replicates
    _check_skips(chosen, step, length / order.batch_size)
    plan = Plan(step, chosen, many, length, tail, seed, left, own_until, rungs)
    known = ForkRecord.find(run.path, plan)
    if known is not None and known.finished:
        return RunFork(known, was_finished=True)
    with opened(pool) as where:
        check_fits(source(), chosen)
        record = ForkRecord.keep(run.path, plan)
        if begin is not None:
            begin(plan)
        _, stops = grow(source(), plan, where, ledger=record.ledger(), progress=progress, threads=configuration.threads)
    return RunFork(record.finish(stops), was_finished=False, warnings=source().state.warnings)


def default_step(run: Run) -> int:
    """The step to fork from: the middle of a finished run, and the newest checkpoint of any other.

    Raises:
        BadArgument: The run has no checkpoint yet.
    """
    if run.status == "finished":
        return run.steps // 2
    kept = checkpoint_steps(run.folder)
    if not kept:
        raise BadArgument(f"`{run.path}` has no checkpoint yet: wait for one, or fork from the start, with at=0.")
    return kept[0]


def _checked_step(run: Run, step: int) -> int:
    """The number of steps of the whole run, if there is something left after `step`."""
    steps = int(run.manifest["steps"])
    if not 0 <= step <= run.steps:
        raise BadArgument(f"`at` must be between 0 and {run.steps:,}, the last step on record, got {step:,}.")
    if step == steps:
        raise BadArgument(f"`at` {step:,} is the end of the run, where nothing is left: give an earlier step.")
    return steps


def branch_length(horizon: Horizon, order: Order, left: int, source: Callable[[], RunSource]) -> int:
    """The length of a branch in examples."""

    def seconds_per_update() -> float:
        timed = grown(source(), Branch(GoOn(), 0, min(TIMED * order.batch_size, left)))
        return timed.seconds / max(timed.updates, 1)

    length = horizon.examples(
        batch=order.batch_size, epoch=order.examples, left=left, seconds_per_update=seconds_per_update
    )
    if length > left:
        raise BadArgument(
            f"`horizon` is {length:,} examples, and {left:,} are left of the run: give a shorter one, such as 25%."
        )
    return length


def _rungs(
    budget: float | None,
    horizon: str | None,
    replicates: int | None,
    *,
    alternatives: int,
    order: Order,
    steps: int,
    left: int,
) -> tuple[Rung, ...]:
    """The stages of a race that a budget in units of the run pays for; none without a budget."""
    if budget is None:
        return ()
    if not 0 < budget < math.inf:
        raise BadArgument(f"`budget` must be above 0 and finite, got {budget}.")
    for name, value in (("horizon", horizon), ("replicates", replicates)):
        if value is not None:
            raise BadArgument(f"`{name}` is given together with `budget`, which chooses it: leave one of them out.")
    examples = math.floor(budget * examples_before(order, steps))
    return rungs_for(alternatives, max(examples, 1), left=left, shortest=min(FEWEST * order.batch_size, left))


def _skips(alternative: Alternative) -> tuple[Skip, ...]:
    if isinstance(alternative, Together):
        return (*_skips(alternative.first), *_skips(alternative.second))
    return (alternative,) if isinstance(alternative, Skip) else ()


def _last_skipped(alternatives: Sequence[Alternative]) -> int:
    """The step up to which the branches have to see the batches of the run itself; 0 if none is skipped."""
    return max((skip.stop for one in alternatives for skip in _skips(one)), default=0)


def _check_skips(alternatives: Sequence[Alternative], step: int, updates: float) -> None:
    for skip in (skip for one in alternatives for skip in _skips(one)):
        if not step <= skip.start < step + updates:
            raise BadArgument(
                f"`skip` {skip.start}:{skip.stop} is not within the branches, which go from step {step:,} to "
                f"{step + math.floor(updates):,}: give `at` a step before {skip.start:,}, or a longer horizon."
            )
