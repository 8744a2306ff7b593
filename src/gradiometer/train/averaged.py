"""The averaged point of a training whose optimizer averages its iterates: it is evaluated there,
and ends there."""

from collections.abc import Iterator
from contextlib import contextmanager

from gradiometer.convergence.averaging import REFRESHED, refresh_batch_norm
from gradiometer.measurement.optimizer.averaged import at_average, to_average
from gradiometer.train.training import Training


@contextmanager
def evaluated(training: Training) -> Iterator[None]:
    """The model at the averaged point; parameters, buffers and optimizer afterwards as before."""
    with at_average(training.model, training.optimizer) as averaged:
        if averaged:
            _refresh(training)
        yield


def end_at_average(training: Training) -> None:
    """Leave the model at the averaged point, which is what the training ends with."""
    if to_average(training.optimizer):
        _refresh(training)


def _refresh(training: Training) -> None:
    """Measure the statistics of BatchNorm again, where there are any."""
    newest = range(max(training.step - REFRESHED, 0), max(training.step, 1))
    batches = (training.data.batch(training.order.batch(step)) for step in newest)
    refresh_batch_norm(
        training.model, batches, training.problem.loss, seed=training.configuration.seed
    )
