"""The watch of a training: the one that a person puts around a loop."""

from collections.abc import Callable
from pathlib import Path

from gradiometer.gauges import Asked
from gradiometer.integrations.watch.data import Batches, Probe
from gradiometer.integrations.watch.findings import Announcements
from gradiometer.integrations.watch.subject import Subject
from gradiometer.integrations.watch.watching import Watch
from gradiometer.run.ranks import Ranks
from gradiometer.train.training import Training


def watch_of(training: Training, tell: Callable[[str], object]) -> Watch:
    """A watch of this training, in the run that the training makes.

    Args:
        training: The training.
        tell: Takes the text of every warning.
    """
    configuration = training.configuration
    examples = Probe(training.data)
    return Watch(
        Subject(
            objective=training.objective,
            has_loss=True,
            budget=training.budget,
            ranks=Ranks(),
            tell=tell,
            spread=(lambda: training.spread) if training.shared else None,
            origin=training.origin,
            is_own=True,
        ),
        training.model,
        [training.optimizer],
        out=Path(),
        name=training.problem.name,
        batches=Batches(
            training.sampling, examples if configuration.probe else None, judges=examples
        ),
        accumulation=1,
        scaler=None,
        asked={
            "budget": configuration.budget,
            "every": configuration.every,
            "parts": configuration.parts,
        }
        | {"level": configuration.level, "seed": configuration.seed},
        gauges=Asked(tuple(gauge.name for gauge in training.gauges), training.gauges),
        to=(),
        announcements=Announcements(page=False, quiet=True),
    )
