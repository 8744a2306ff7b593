"""A schedule over a finite run, for which the convergence theorem says nothing; and its picture.

Source: Defazio et al. (2023), When, Why and How Much? Adaptive Learning Rate Scheduling by
Refinement, theorem 10.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from gradiometer.arguments import check_number, check_whole
from gradiometer.convergence.formulas.number import Amount
from gradiometer.convergence.schedules.schedule import Schedule
from gradiometer.errors import BadArgument


@dataclass(frozen=True)
class RateOverRun:
    """A schedule over a run of T steps. All numbers are exact, except the bound, which holds for
    every convex loss.

    Args:
        steps: T.
        peak: The largest η.
        final: η of the last step.
        reaches_zero: True if η ends below a ten-thousandth of its peak.
        distance: Σ η: how far the run can travel, in units of ‖g‖.
        noise: Σ η²: how much gradient noise the run adds up, in units of tr Σ/B.
        bound: The bound on E loss(Φ_T) − min loss at the best base rate, for D = ‖Φ₀ − Φ*‖ = 1 and
            ‖g‖ ≤ G = 1. It is proportional to D and to G. The smallest bound of any shape is about
            2/√T.
        best_peak: The peak rate with the smallest bound, for the same D and G; proportional to D/G.
    """

    steps: int
    peak: float
    final: float
    reaches_zero: bool
    distance: float
    noise: float
    bound: float
    best_peak: float

    def to_dict(self) -> dict[str, Any]:
        """The numbers as a dictionary, as `--json` prints them."""
        return asdict(self)

    def __str__(self) -> str:
        ends = (
            "reaches zero"
            if self.reaches_zero
            else f"ends at {self.final / self.peak:.2%} of its peak"
        )
        return (
            f"Over {self.steps:,} steps it {ends}; Σ η = {self.distance:.4g}, Σ η² = "
            f"{self.noise:.4g}; worst case {self.bound * math.sqrt(self.steps):.3f} D G/√T at a "
            f"peak of {self.best_peak:.3g} D/G."
        )


def horizon(schedule: Schedule, steps: int) -> RateOverRun:
    """A schedule over a run of T steps.

    Args:
        schedule: Any schedule that is not zero throughout the run.
        steps: T.

    >>> from gradiometer.convergence.schedules import Linear
    >>> from gradiometer.convergence.schedules.horizon import horizon
    >>> print(horizon(Linear(0.1, steps=1000), 1000))
    Over 1,000 steps it reaches zero; Σ η = 50.05, Σ η² = 3.338; worst case 2.006 D G/√T at a peak of 0.0315 D/G.
    """
    check_whole("steps", steps, 1, 10_000_000)
    rates = np.array([schedule(step) for step in range(steps)], dtype=np.float64)
    peak = float(rates.max())
    if not peak > 0:
        raise BadArgument(
            f"`schedule` {schedule!r} is zero at all {steps:,} steps, so nothing is learned."
        )
    # The bound at its best base rate, for D = G = 1: D²/(2bΣw) + bG²[Σw²/(2Σw) + ½ Σ_k w_k/S_{k+1}
    # · Q_k/S_k] with S_k = Σ_{t≥k} w_t and Q_k = Σ_{t≥k} w_t². Steps with a rate of zero change
    # nothing and are left out.
    w = rates[rates > 0] / peak
    tails, squares = (np.cumsum(values[::-1])[::-1] for values in (w, np.square(w)))
    total = tails[0]
    refinement = float(np.sum(w[:-1] / tails[1:] * squares[:-1] / tails[:-1]))
    distance_part, noise_part = 1 / (2 * total), squares[0] / (2 * total) + refinement / 2
    # the sums of rates near the largest float are infinite, and are printed as that
    with np.errstate(over="ignore"):
        distance, noise = float(rates.sum()), float(np.square(rates).sum())
    # A schedule of exactly T steps reaches its end at step T, one after the last update.
    last = min(float(rates[-1]), schedule(steps))
    return RateOverRun(
        steps=steps,
        peak=peak,
        final=float(rates[-1]),
        # 1e-4: A last rate below this share of the largest one counts as zero.
        reaches_zero=last < 1e-4 * peak,
        distance=distance,
        noise=noise,
        bound=float(2 * math.sqrt(distance_part * noise_part)),
        best_peak=float(math.sqrt(distance_part / noise_part)),
    )


def transfer_rate(tuned: Amount, source: Schedule, target: Schedule, steps: int) -> float:
    """The peak rate for the shape `target`, from a peak rate tuned for the shape `source`.

    The best peak rate of the bound is D/G times a number that depends on the shape. The tuned rate
    determines D/G.

    Args:
        tuned: The best peak rate for the source's shape.
        source, target: The shapes. Only their form over the run matters, not their height.
        steps: T.

    >>> from gradiometer.convergence.schedules import Constant, Linear
    >>> from gradiometer.convergence.schedules.horizon import transfer_rate
    >>> round(transfer_rate(0.1, Constant(1.0), Linear(1.0, steps=1000), 1000), 3)
    0.29
    """
    check_number("tuned", tuned, positive=True)
    return tuned * horizon(target, steps).best_peak / horizon(source, steps).best_peak


def picture(schedules: Mapping[str, Schedule], steps: int) -> Any:
    """An altair chart of η over the steps of a run, one line per schedule.

    Args:
        schedules: Schedules by their names in the legend.
        steps: Length of the run.

    >>> from gradiometer.convergence.schedules import Cosine
    >>> from gradiometer.convergence.schedules.horizon import picture
    >>> chart = picture({"cosine": Cosine(0.1, steps=100)}, 100)
    >>> chart.data.values[50]
    {'step': 50, 'rate': 0.05, 'schedule': 'cosine'}
    """
    import altair as alt  # noqa: PLC0415 (half a second, only for a picture)

    check_whole("steps", steps, 1)
    # Every step of a short run, and more of a longer one than a chart has pixels.
    shown = sorted({round(place * (steps - 1) / 2000) for place in range(2001)})
    points = [
        {"step": step, "rate": schedule(step), "schedule": name}
        for name, schedule in schedules.items()
        for step in shown
    ]
    return (
        alt.Chart(alt.Data(values=points))
        .mark_line()
        .encode(
            x=alt.X("step:Q", title="step"),
            y=alt.Y("rate:Q", title="learning rate η"),
            color=alt.Color(
                "schedule:N",
                title=None,
                legend=alt.Legend(orient="bottom", columns=1, labelLimit=560),
            ),
            strokeDash=alt.StrokeDash("schedule:N", title=None),
        )
        .properties(width=560, height=280)
    )
