"""The run of a watched loop: written, read and described while training uses it."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np
from torch import Tensor

from gradiometer.errors import BadArgument, summary
from gradiometer.integrations.trackers import Trackers
from gradiometer.integrations.watch.findings import Announcements, Findings
from gradiometer.integrations.watch.losses import Losses
from gradiometer.integrations.watch.settings import Settings
from gradiometer.integrations.watch.shield import Shield, WarningLog, reason_of
from gradiometer.measurement.estimate import Estimate
from gradiometer.measurement.evaluation import Evaluation, PerExample
from gradiometer.measurement.uncertainty.skewed import skewed_mean
from gradiometer.run.reader import Run
from gradiometer.run.recorder import Recorder
from gradiometer.verdict.diagnosis import diagnose

LossesGiven = float | Tensor | Sequence[Any]
"""A mean loss, or the losses of single examples."""


class Kept:
    """The recorder of a watched loop and what is read back from its folder, inside the shield.

    Args:
        losses: The losses, some of which may wait to be written.
        shield: Keeps errors of the disk from training.
        warn: The warnings so far.
        announcements: What is printed, and the page at the end.
        gauges: Custom gauges of the run.
        settings: The settings of the optimizers.
    """

    def __init__(
        self,
        losses: Losses,
        shield: Shield,
        warn: WarningLog,
        announcements: Announcements,
        gauges: tuple[Any, ...],
        settings: Settings,
    ) -> None:
        self._losses = losses
        self._shield = shield
        self._warn = warn
        self._gauges = gauges
        self._announcements = announcements
        self._settings = settings
        self._recorder: Recorder | None = None
        self._evaluated: list[tuple[int, Evaluation]] = []

    def attach(self, recorder: Recorder) -> None:
        """Write and read the run of this recorder from now on."""
        self._settings.attach(recorder.settings)
        self._recorder = recorder
        self._losses.recorder = recorder
        self._warn.attach(recorder)

    def close(self, step: int, trackers: Trackers, error: BaseException | None) -> None:
        """Write and send everything, and the end of the training. `error` is the user's own, which
        hides ours."""
        with self._shield:
            self._settings.end()
        if self._recorder is None:
            return
        with self._shield, suppress(*(Exception,) if error else ()), self._recorder as recorder:
            with self._shield:
                self._settings.note()
                self._losses.fetch()
            with self._shield:
                trackers.send(recorder, recorder.budget.clock(), at_once=True)
            reason = {} if error is None else {"reason": summary(error)}
            recorder.event("finished" if error is None else "interrupted", step, **reason)
        with self._shield:
            self._announcements.show(self.run)

    @property
    def run(self) -> Run | None:
        """The run as it is on disk now; None if there is none, or none that can be read."""
        if self._recorder is None:
            return None
        self._save()
        with self._shield:
            return Run.open(self._recorder.folder.place, gauges=self._gauges)
        return None

    def evaluate(self, step: int, evaluation: Evaluation) -> None:
        """Record an evaluation. One that is made before the first step is written when the run
        begins."""
        self._evaluated.append((step, evaluation))
        self.evaluate_what_waited()

    def evaluate_what_waited(self) -> None:
        """Write the evaluations so far, if there is a run."""
        if self._recorder is None:
            return
        waiting, self._evaluated = self._evaluated, []
        with self._shield:
            for step, evaluation in waiting:
                self._recorder.evaluation(step, evaluation)

    def findings(self) -> Findings:
        """The findings so far, and the warnings."""
        run = self.run
        diagnosis = None
        try:
            diagnosis = None if run is None else diagnose(run)
        except Exception as error:  # the measuring itself has not failed
            if self._shield.before_first_update:
                raise
            self._warn(f"the findings could not be made: {reason_of(error)}")
        found = () if diagnosis is None else diagnosis.findings
        return Findings(
            found, dict.fromkeys([*(run.warnings if run else ()), *self._warn.texts]), diagnosis
        )

    def state_dict(self) -> dict[str, Any]:
        """The folder of the run and the state of its recorder; empty without a run."""
        if self._recorder is None:
            return {}
        self._save()
        return {"run": str(self._recorder.folder.path), "recorder": self._recorder.state_dict()}

    def _save(self) -> None:
        with self._shield:
            if self._recorder is not None and not self._recorder.closed:
                self._settings.note()
                self._losses.fetch()
                self._recorder.flush()


def evaluation(**losses: LossesGiven | None) -> Evaluation:
    """An evaluation, from the losses on the test and the training examples.

    Raises:
        BadArgument: None is given, or one is not a number, a tensor or a list of numbers.
    """
    estimates, examples = {}, {}
    for name, value in losses.items():
        if value is not None:
            given = losses_given(name, value)
            estimates[f"{name}_loss"] = mean_loss(given)
            if name == "test" and given.size > 1:
                examples[f"{name}_loss"] = given
    if not estimates:
        raise BadArgument(
            "`test` and `train` are missing: give the loss on held-out examples as test=..."
        )
    return Evaluation(estimates, examples)


def losses_given(name: str, value: Any) -> PerExample:
    """What was given for an evaluation, as an array.

    Raises:
        BadArgument: It is not a number, a tensor or a list of numbers.
    """
    if isinstance(value, Tensor):
        value = value.detach().cpu().double().numpy()
    try:
        losses = np.asarray(value, dtype=np.float64).reshape(-1)
    except (TypeError, ValueError) as error:
        raise BadArgument(
            f"`{name}` must be a loss or the losses of single examples, got a "
            f"{type(value).__name__}: give a number, a tensor or a list of numbers."
        ) from error
    if not losses.size:
        raise BadArgument(f"`{name}` holds no loss: give a number, or the loss of every example.")
    return losses


def mean_loss(losses: PerExample) -> Estimate:
    """The mean, with an interval if these are the losses of single examples."""
    if not np.isfinite(losses).all():
        return Estimate.unknown(level=0.9, method="a loss is not finite", samples=losses.size)
    return Estimate.exact(float(losses[0])) if losses.size == 1 else skewed_mean(losses)
