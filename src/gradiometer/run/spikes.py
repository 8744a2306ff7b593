"""The spikes in the losses of a run."""

from dataclasses import replace

import numpy as np
from jaxtyping import Float, Int

from gradiometer.drift.spikes.detection import Spike, find_spikes
from gradiometer.measurement.reading import Draw
from gradiometer.run.reader import Run


def spikes_of(run: Run) -> tuple[Spike, ...]:
    """The spikes of the training loss. Their places are steps.

    A rise of the loss after a recorded rise of the learning rate is no spike. The size of the last
    batch of an epoch follows from the number of examples, if the data are reshuffled.

    Args:
        run: The run, finished or not.
    """
    steps, losses = run.losses
    found = find_spikes(losses, rates=_rates(run, steps), sizes=_sizes(run, steps))
    return tuple(
        replace(
            spike,
            first=int(steps[spike.first]),
            peak=int(steps[spike.peak]),
            last=int(steps[spike.last]),
        )
        for spike in found
    )


def _rates(run: Run, steps: Int[np.ndarray, " steps"]) -> Float[np.ndarray, " steps"] | None:
    """The learning rate of every step, the largest of the groups; None if it was not recorded."""
    known = run.hyperparameters
    if known is None:
        return None
    return known.rates[np.maximum(np.searchsorted(known.steps, steps, side="right") - 1, 0)]


def _sizes(run: Run, steps: Int[np.ndarray, " steps"]) -> Float[np.ndarray, " steps"] | None:
    """Examples of every batch: fewer in the last one of an epoch."""
    examples, size = run.sampling.examples, run.configuration.batch_size
    if (
        run.sampling.draw is not Draw.RESHUFFLED
        or examples is None
        or examples <= size
        or examples % size == 0
    ):
        return None
    last = (steps + 1) % (examples // size + 1) == 0
    return np.where(last, float(examples % size), float(size))
