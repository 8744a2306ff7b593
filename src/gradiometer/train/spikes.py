"""Examine the steps of a training whose loss is far above the last ones."""

import math
from collections.abc import Sequence

from gradiometer.drift.spikes.evidence import EVENT, EXAMINATIONS
from gradiometer.drift.spikes.examination import Before, Examiner
from gradiometer.measurement.batch import Batch
from gradiometer.run.recorder import Recorder
from gradiometer.train.training import Training


class SpikeWatch:
    """Called at every step of a training on one process, unless measuring is off.

    Args:
        training: The training.
        recorder: Takes what an examination finds.
    """

    def __init__(self, training: Training, recorder: Recorder) -> None:
        self._training, self._recorder = training, recorder
        self._examiner = Examiner(training.objective, training.configuration.seed)
        self._before: Before | None = None
        self._works = training.ranks.alone and training.configuration.budget > 0

    def pass_over(self, losses: Sequence[float]) -> None:
        """Take the losses of steps that are not examined, as if they were: those that were made before a resume, and
        those at which the guard went back. So a resumed run examines the same steps as one that was never stopped."""
        if self._works:
            self._before = None
            self._examiner.repeat(losses)

    def look(self, loss: float, batch: Batch) -> None:
        """Examine this step if its loss is too high. Call it after the backward and before the update."""
        if not self._works:
            return
        before, self._before = self._before, Before(batch, loss)
        if not -math.inf < loss < self._examiner.limit:
            with self._training.budget.spending(EXAMINATIONS):
                gradients = [parameter.grad for parameter in self._training.objective.parameters]
                known = [gradient for gradient in gradients if gradient is not None]
                fields = self._examiner.examine(loss, batch, before, known if len(known) == len(gradients) else None)
            if fields is not None:
                self._recorder.event(EVENT, self._training.step, **fields)
        self._examiner.learn([loss])
