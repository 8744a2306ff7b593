"""The schedule a configuration asks for, over a run of so many steps."""

from gradiometer.convergence.schedules.cycles import SnapshotCycle
from gradiometer.convergence.schedules.schedule import Schedule
from gradiometer.convergence.schedules.shapes import Constant, Cosine, Linear
from gradiometer.convergence.theorem.theorem import read
from gradiometer.run.configuration import Configuration


def planned(configuration: Configuration, steps: int) -> Schedule:
    """η as a function of the step, from 0 to the last of the run.

    Args:
        configuration: Of the run.
        steps: T: the words cosine, linear and cycles speak of the whole run.
    """
    initial = configuration.learning_rate
    match configuration.schedule:
        case "constant":
            return Constant(initial)
        case "cosine":
            return Cosine(initial, steps=steps)
        case "linear":
            return Linear(initial, steps=steps)
        case "cycles":
            return SnapshotCycle(initial, steps, configuration.snapshots)
        case formula:
            return read(formula)
