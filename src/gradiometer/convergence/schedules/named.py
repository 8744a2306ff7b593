"""Schedules with a name of their own: those that `gradiometer train` and `gradiometer learn
schedule` know."""

from gradiometer.convergence.schedules.cycles import SnapshotCycle
from gradiometer.convergence.schedules.schedule import Schedule
from gradiometer.convergence.schedules.shapes import Constant, Cosine, Linear, WarmupStableDecay


def schedule_by_name(name: str, initial: float, steps: int, snapshots: int = 0) -> Schedule | None:
    """The schedule of this name over a run of this length; None if the name is not known.

    Cosine and linear end at zero with the run, and a trapezoid, which keeps its rate for the first
    half. Cycles do so in each of their `snapshots` cycles.
    """
    match name:
        case "constant":
            return Constant(initial)
        case "cosine":
            return Cosine(initial, steps=steps)
        case "linear":
            return Linear(initial, steps=steps)
        case "trapezoid":
            return trapezoid(initial, steps)
        case "cycles":
            return SnapshotCycle(initial, steps, snapshots)
    return None


def trapezoid(initial: float, steps: int) -> Schedule:
    """The rate is kept for the first half of a run, and falls linearly to zero in the second."""
    return WarmupStableDecay(initial, warmup=0, stable=steps // 2, decay=steps - steps // 2)
