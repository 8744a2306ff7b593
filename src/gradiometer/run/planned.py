"""What a configuration plans: its learning rates over a run of a given length, and the settings of
its optimizer."""

from gradiometer.convergence.schedules.schedule import Schedule
from gradiometer.convergence.schedules.shapes import schedule_by_name
from gradiometer.convergence.theorem.theorem import read
from gradiometer.measurement.optimizer.hyperparameters import Hyperparameters
from gradiometer.run.configuration import Configuration


def planned(configuration: Configuration, steps: int) -> Schedule:
    """η as a function of the step, from 0 to the last of `steps`. Cosine, linear and cycles end
    with the run."""
    found = schedule_by_name(
        configuration.schedule, configuration.rate, steps, configuration.snapshots
    )
    return read(configuration.schedule) if found is None else found


def hyperparameters_of(configuration: Configuration, reached: int) -> Hyperparameters:
    """The settings of its optimizer at the start, for a run that has reached this step."""
    return Hyperparameters((0,), ((configuration.group,),), reached)
