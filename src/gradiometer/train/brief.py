"""A training without a run folder, for commands that measure a model at its start or a few steps
later."""

from gradiometer.errors import Diverged
from gradiometer.measurement.batch import batch_size
from gradiometer.measurement.gauge import Gauge
from gradiometer.measurement.reading import Reading
from gradiometer.measurement.step import TrainingStep
from gradiometer.problems.registry import load
from gradiometer.run.budget import Budget
from gradiometer.run.configuration import Configuration
from gradiometer.train.training import Training


def started(configuration: Configuration) -> Training:
    """The configured training before its first step."""
    problem = load(
        configuration.problem,
        model=configuration.model,
        data_dir=configuration.data_dir,
        seed=configuration.seed,
    )
    return Training(problem, configuration, Budget(0.0))


def advance(
    training: Training, steps: int, gauge: Gauge | None = None, last: int = 0
) -> list[Reading]:
    """Make some steps, and measure a gauge at the last ones. Batches of a single example are not
    measured.

    Raises:
        Diverged: The loss or the gradient is not finite, or the loss exploded.

    Example:
        >>> from gradiometer import Configuration, GradientNoise
        >>> training = started(Configuration(model="mlp"))
        >>> readings = advance(training, 5, GradientNoise(), last=2)
        >>> training.step, [reading.step for reading in readings]
        (5, [3, 4])
    """
    readings = []
    for left in range(steps, 0, -1):
        batch = training.batch()
        measured = gauge is not None and left <= last
        loss = training.backward(batch, measured)
        if (reason := training.divergence(loss)) is not None:
            raise Diverged(
                f"training diverged at step {training.step:,} with learning rate "
                f"{training.configuration.rate:g}: {reason}; try a smaller --lr"
            )
        # A batch of one example has no spread.
        if gauge is not None and measured and batch_size(batch) >= 2:
            step = TrainingStep(
                training.objective,
                batch,
                index=training.step,
                learning_rate=training.learning_rate,
                sampling=training.sampling,
                gradient=[parameter.grad for parameter in training.parameters],
                spread=training.spread,
                preconditioner=training.preconditioner,
                seed=training.configuration.seed,
            )
            moments = gauge.measure(step)
            if moments is not None:
                readings.append(
                    Reading(gauge.name, step.index, step.batch_size, step.learning_rate, moments)
                )
        training.update()
    return readings
