"""The run of a watched training: written, read and described while training uses it."""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from gradiometer.errors import BadArgument, summary
from gradiometer.integrations.trackers import Trackers
from gradiometer.integrations.watch.findings import Announcements, Findings
from gradiometer.integrations.watch.shield import Shield, WarningLog, reason_of
from gradiometer.measurement.gauge import Gauge
from gradiometer.run.folder import RunFolder, file_name
from gradiometer.run.reader import Run
from gradiometer.run.recorder import Recorder
from gradiometer.verdict.diagnosis import diagnose


class Recording:
    """What every watch has: its run, the findings, the state for a checkpoint, and a shield.

    Args:
        out: Folder of the runs.
        name: Beginning of the run's name.
        level: Confidence level of every interval.
        to: Trackers that also get the estimates.
        tell: Takes the text of every warning.
        announcements: What is printed, and the page at the end.
        gauges: Custom gauges of the run.
        passes: True to let errors pass, see `Shield`.
    """

    def __init__(
        self,
        *,
        out: Path,
        name: str,
        level: float,
        to: Sequence[Any],
        tell: Callable[[str], object],
        announcements: Announcements,
        gauges: tuple[Any, ...] = (),
        passes: bool = False,
    ) -> None:
        self._out = out
        self._name = file_name(name)
        self._own_gauges = gauges
        self._announcements = announcements
        self.shield = Shield(self._stop, passes=passes)
        """The context for everything that training calls: after the first update its errors become
        warnings."""
        self._warn = WarningLog(lambda: self.steps, tell)
        self._trackers = Trackers(to, level, self._warn)
        self._recorder: Recorder | None = None
        self._restored: Mapping[str, Any] = {}
        self._begun = False
        self.steps = 0
        """Number of updates so far, which is the index of the next step."""

    @abstractmethod
    def _stop(self, error: Exception) -> None:
        """An error of our own after the first update: stop, and warn."""

    def _give_what_waits(self) -> None:
        """Give the recorder what is not written yet."""

    @property
    def run(self) -> Run | None:
        """The run as it is on disk now; None before the first step, if it cannot be read, and on
        ranks other than 0."""
        if self._recorder is None:
            return None
        self._save()
        with self.shield:
            return Run.open(self._recorder.folder.place, gauges=self._own_gauges)
        return None

    def findings(self) -> Findings:
        """The findings so far, the most urgent first, and the warnings."""
        run = self.run
        diagnosis = None
        try:
            diagnosis = None if run is None else diagnose(run)
        except Exception as error:  # the measuring itself has not failed
            if self.shield.before_first_update:
                raise
            self._warn(f"the findings could not be made: {reason_of(error)}")
        found = () if diagnosis is None else diagnosis.findings
        warnings = [*(run.warnings if run else ()), *self._warn.texts]
        return Findings(found, dict.fromkeys(warnings), diagnosis)

    def state_dict(self) -> dict[str, Any]:
        """Plain values, without tensors, for your checkpoint: with them the same run can be
        continued."""
        if self._recorder is None:
            return {"steps": self.steps}
        self._save()
        return {
            "steps": self.steps,
            "run": str(self._recorder.folder.path),
            "recorder": self._recorder.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue the run of a checkpoint. Call it before the first step."""
        if self._begun:
            raise BadArgument(
                "`state` came too late: load it before the first step, to continue the same run."
            )
        if "steps" not in state:
            raise BadArgument(
                "`state` is not the state_dict of a watch: give what `state_dict()` returned."
            )
        self.steps = int(state["steps"])
        self._restored = state

    def __repr__(self) -> str:
        run = self.run
        return f"<watch: {'no step yet' if run is None else f'{run.path}, {run.steps:,} steps'}>"

    def _repr_html_(self) -> str:
        """A card for notebooks: the run and its findings."""
        return self.findings().card_of(self.run)

    def _new_recorder(
        self, manifest: Mapping[str, Any], gauges: Sequence[Gauge], step: int, **settings: Any
    ) -> Recorder:
        """The recorder of a new run, or of a run that is continued from a checkpoint.

        Args:
            manifest: The contents of `run.toml`.
            gauges: The gauges.
            step: The next step.
            settings: Further arguments of `Recorder`.
        """
        if "run" not in self._restored:
            folder = RunFolder.create(self._out, self._name, manifest)
            recorder = Recorder(folder, gauges, **settings)
            recorder.event("started", step)
            return recorder
        recorder = Recorder(RunFolder.open(self._restored["run"]), gauges, **settings)
        recorder.load_state_dict(self._restored["recorder"])
        recorder.resume(step)
        return recorder

    def _save(self) -> None:
        with self.shield:
            if self._recorder is not None and not self._recorder.closed:
                self._give_what_waits()
                self._recorder.flush()

    def _close(self, error: BaseException | None) -> None:
        """Write and send everything, and the end of the training. `error` is the user's own, which
        hides ours."""
        if self._recorder is None:
            return
        with self.shield, suppress(*(Exception,) if error else ()), self._recorder as recorder:
            with self.shield:
                self._give_what_waits()
            with self.shield:
                self._trackers.send(recorder, recorder.budget.clock(), at_once=True)
            reason = {} if error is None else {"reason": summary(error)}
            recorder.event("finished" if error is None else "interrupted", self.steps, **reason)
        with self.shield:
            self._announcements.show(self.run)
