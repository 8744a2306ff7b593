"""The watch of a training: the one that a person puts around a loop."""

from collections.abc import Callable
from pathlib import Path

from gradiometer.gauges import Asked
from gradiometer.integrations.watch.recording import Announcements
from gradiometer.integrations.watch.subject import Batches, Probe, Subject
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
    subject = Subject(
        objective=training.objective,
        called=training.model,
        optimizers=[training.optimizer],
        batches=Batches(
            training.sampling, examples if configuration.probe else None, judges=examples
        ),
        budget=training.budget,
        ranks=Ranks(),
        tell=tell,
        seed=configuration.seed,
        spread=(lambda: training.spread) if training.shared else None,
        origin=training.origin,
        is_own=True,
    )
    return Watch(
        subject,
        out=Path(),
        name=training.problem.name,
        asked={
            "every": configuration.every,
            "parts": configuration.parts,
            "level": configuration.level,
        },
        gauges=Asked(tuple(gauge.name for gauge in training.gauges), training.gauges),
        to=(),
        announcements=Announcements(page=False, quiet=True),
    )
