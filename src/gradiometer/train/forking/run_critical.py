"""`critical_batch_of`: the critical batch of a run of `gradiometer train`, by branching."""

from typing import Any

import numpy as np

from gradiometer.estimation.noise import GradientNoise
from gradiometer.estimation.preconditioned_noise import PreconditionedNoise
from gradiometer.forks.critical.batch import CriticalBatch
from gradiometer.forks.critical.of_loop import critical_batch
from gradiometer.gauges import recorded_gauges
from gradiometer.measurement.estimate import Estimate
from gradiometer.problems.problem import Problem
from gradiometer.run.reader import Run
from gradiometer.train.forking.run_state import loop_at


def critical_batch_of(
    run: Run, *, at: int | None = None, problem: Problem | None = None, level: float | None = None, **settings: Any
) -> CriticalBatch:
    """`gradiometer.forks.critical_batch` at a step of a run, kept in its folder, against the noise scale there."""
    loop = loop_at(run, at, problem=problem)
    return critical_batch(
        loop, forecast=noise_scale_at(run, loop.index), out=run.path, threads=run.configuration.threads,
        level=run.configuration.level if level is None else level, **settings,
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
