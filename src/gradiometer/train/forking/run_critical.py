"""`critical_batch_of`: the critical batch of a run of `gradiometer train`, by branching."""

from collections.abc import Callable, Iterator, Sequence
from functools import cache

import numpy as np

from gradiometer.convergence.formulas.number import Amount
from gradiometer.errors import BadArgument, bounded
from gradiometer.estimation.noise import GradientNoise
from gradiometer.estimation.preconditioned_noise import PreconditionedNoise
from gradiometer.forks.branch import Branch, BranchResult
from gradiometer.forks.critical.batch import CriticalBatch, critical_batch_by
from gradiometer.forks.critical.lengths import FACTORS, HORIZON, REPLICATES, TOLERANCE, horizons_up_to
from gradiometer.forks.horizon import Horizon
from gradiometer.forks.recorded.growing import grown_in
from gradiometer.gauges import recorded_gauges
from gradiometer.jobs.choice import opened
from gradiometer.jobs.ledger import Ledger
from gradiometer.jobs.pool import Pool
from gradiometer.measurement.batch import Order
from gradiometer.measurement.estimate import Estimate
from gradiometer.measurement.reading import Draw
from gradiometer.problems.problem import Problem
from gradiometer.run.reader import Run
from gradiometer.train.forking.order import examples_before
from gradiometer.train.forking.run_fork import branch_length, default_step
from gradiometer.train.forking.run_state import RunSource
from gradiometer.train.restoring.recorded import configuration_of, problem_of
from gradiometer.train.restoring.replay import state_at


@bounded
def critical_batch_of(
    run: Run,
    *,
    at: int | None = None,
    factors: Sequence[Amount] = FACTORS,
    horizon: str = HORIZON,
    replicates: int = REPLICATES,
    tolerance: Amount = TOLERANCE,
    level: float | None = None,
    pool: Pool | str = "here",
    seed: int = 0,
    problem: Problem | None = None,
    progress: Callable[[BranchResult], None] | None = None,
) -> CriticalBatch:
    """Measure the critical batch at a step of a run, and compare it with the noise scale there.

    The forecast is the preconditioned noise scale if the run has it, else the plain one, at the newest reading before
    the step. Finished branches are kept in the run's folder forks/, and are not trained again by the same call. With
    the defaults all branches cost about 18 times what is left of the run.

    Args:
        run: The run, finished or under way.
        at: Number of updates before the branches. Default: the middle of a finished run, else the newest checkpoint.
        factors: Batches as multiples of that of the run.
        horizon: The longest branch: "25%" of what is left of the run, "500 updates", "2 epochs", "64_000 examples" or
            "10 s". A quarter and a half of it are trained, too.
        replicates: Number of data orders, at least 2.
        tolerance: Share of examples that a larger batch may cost: see `CriticalBatch`.
        level: Confidence level. Default: that of the run.
        pool: Where the branches are trained: "here", "processes", "processes:4", "ray", or a pool.
        seed: Seed of the data orders and of the random draws.
        problem: The problem of the run, if it is loaded already.
        progress: Called after every branch.

    Raises:
        BadArgument: An argument cannot be used, or too little is left of the run for two batches and two horizons.
        GradiometerError: A branch failed. Finished branches are kept.
    """
    configuration = configuration_of(run, "fork")
    step, steps = default_step(run) if at is None else at, int(run.manifest["steps"])
    if not 0 <= step <= min(run.steps, steps - 1):
        raise BadArgument(f"`at` must be between 0 and {min(run.steps, steps - 1):,}, got {step:,}.")
    problem = problem or problem_of(run, "fork")
    order = Order(Draw(configuration.sampling), len(problem.train), configuration.batch_size, configuration.seed)
    left = examples_before(order, steps) - examples_before(order, step)

    @cache
    def source() -> RunSource:
        """Made once, and only after the arguments are checked: the steps since the last checkpoint are repeated."""
        return RunSource(configuration, state_at(run, step, "fork", problem), seed=seed, problem=problem)

    longest = branch_length(Horizon.parse(horizon), order, left, source)
    lengths = horizons_up_to(longest, configuration.batch_size, factors)
    ledger = Ledger(
        run.folder.path / "forks" / f"critical-{step}-{seed}.jsonl", BranchResult.to_dict, BranchResult.from_dict
    )
    with opened(pool) as where:

        def grow(branches: Sequence[Branch]) -> Iterator[BranchResult]:
            for result in grown_in(where, source(), branches, ledger=ledger, threads=configuration.threads):
                if progress is not None:
                    progress(result)
                yield result

        return critical_batch_by(
            grow, configuration.batch_size, lengths, factors=factors, replicates=replicates, tolerance=tolerance,
            forecast=noise_scale_at(run, step), level=configuration.level if level is None else level,
        )  # fmt: skip


def noise_scale_at(run: Run, step: int) -> Estimate | None:
    """The preconditioned noise scale at the newest reading before a step, or the plain one; None without readings."""
    for kind, name in ((PreconditionedNoise, "preconditioned_noise_scale"), (GradientNoise, "noise_scale")):
        series = run.series(kind.name)
        before = None if series is None else series[: int(np.searchsorted(series.steps, step, side="right"))]
        if before is None or not len(before):
            continue
        gauge = next(each for each in recorded_gauges(run)[0] if isinstance(each, kind))
        return gauge.estimate(before.at_newest(), run.configuration.level)[name]
    return None
