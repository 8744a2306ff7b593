"""The run of a watched training: written, read and described while training uses it."""

import logging
import sys
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gradiometer import verdict  # which loads its modules at the first diagnosis
from gradiometer.arguments import check_whole, folder_of, shown, type_name
from gradiometer.errors import BadArgument, GradiometerError, summary
from gradiometer.gauges import Asked
from gradiometer.integrations.watch.shield import Shield, WarningLog, reason_of
from gradiometer.measurement.artifact import Evaluation
from gradiometer.measurement.finding import Finding
from gradiometer.measurement.gauge import Gauge
from gradiometer.run.cadence.early import PROMISED_BY
from gradiometer.run.configuration import WatchedConfiguration
from gradiometer.run.folder import RunFolder, file_name
from gradiometer.run.reader import Run
from gradiometer.run.recorder import Recorder


class Findings(tuple[Finding, ...]):
    """Findings, the most urgent first. `print` shows the warnings, then the findings, in lines of
    80 characters. Those of a training that goes on are marked as provisional.

    A notebook shows a card in which the intervals are drawn as bars.

    Args:
        findings: The findings.
        warnings: What was wrong with the loop or with measuring it, oldest first.
        diagnosis: The diagnosis with their estimates, which are drawn in a notebook.
    """

    warnings: tuple[str, ...]
    diagnosis: "verdict.Diagnosis | None"

    def __new__(
        cls,
        findings: Iterable[Finding] = (),
        warnings: Iterable[str] = (),
        diagnosis: "verdict.Diagnosis | None" = None,
    ) -> "Findings":
        """Findings and warnings."""
        made = super().__new__(cls, findings)
        made.warnings = tuple(warnings)
        made.diagnosis = diagnosis
        return made

    def __str__(self) -> str:
        warnings = [_fill(f"warning: {warning}", "! ") for warning in self.warnings]
        if self.diagnosis is not None and self.diagnosis.provisional:
            warnings.append(_fill(self.diagnosis.provisional, "▸ "))
        findings = [
            "\n".join(
                _fill(text, "  " if place else f"{finding.state.symbol} ")
                for place, text in enumerate(texts)
            )
            for finding in self
            for texts in (verdict.say(finding).paragraphs,)
        ]
        return "\n".join([*warnings, *findings]) or "Nothing has been measured yet."

    def card_of(self, run: Run | None) -> str:
        """The findings as HTML for a notebook: without scripts, and in the colours of the notebook.

        Args:
            run: The run that is named on the card; None for no name.
        """
        from gradiometer.report.page.page import card  # noqa: PLC0415 (its charts take a second to import)

        return card(self, self.warnings, self.diagnosis, run)

    def _repr_html_(self) -> str:
        return self.card_of(None)


def _fill(text: str, first: str) -> str:
    """A paragraph, indented by two. Commands and words with hyphens are not broken."""
    # Maximum length of a printed line, in characters.
    return textwrap.fill(
        text,
        80,
        initial_indent=first,
        subsequent_indent="  ",
        break_on_hyphens=False,
        break_long_words=False,
    )


@dataclass(frozen=True)
class Announcements:
    """Prints on standard error where a run is, what is measured and where its page is, and writes
    the page.

    Args:
        page: True to write the page.
        quiet: True to print nothing.
    """

    page: Any = True
    quiet: Any = False

    def __post_init__(self) -> None:
        for name, value in (("page", self.page), ("quiet", self.quiet)):
            if not isinstance(value, bool):
                raise BadArgument(f"`{name}` must be True or False, got {shown(value)}.")

    def say(self, text: object) -> None:
        """Print a line on standard error. A closed or missing one is no error."""
        if not self.quiet and sys.stderr is not None:
            with suppress(OSError, ValueError):
                sys.stderr.write(f"gradiometer: {text}\n")

    def begin(
        self,
        path: Path,
        configuration: WatchedConfiguration,
        *,
        early: tuple[float, int],
        planned: int | None,
    ) -> None:
        """Print where the run is, what is measured, what that costs, and what it shows.

        Args:
            path: Folder of the run.
            configuration: Its settings.
            early: The share of the training time that the first steps pay, and their number.
                Products and readings keep to it. Looks of triage and updates that are kept for
                forks come on top where steps take a few milliseconds.
            planned: Number of updates of the whole training, if it is known.
        """
        share = configuration.budget
        if configuration.every is None and not share:
            self.say(f"{path}: nothing is measured (budget 0)")
            return
        if not configuration.gauges:
            self.say(
                f"{path}: looks for what limits the run. The gradient noise is not measured: that "
                "needs loss=lambda model, batch: ... and w.step(loss, batch)"
            )
            return
        most, steps = early
        if configuration.every == 1:
            cost = "at every step"
        elif configuration.every is not None:
            cost = f"at one step in {configuration.every}"
        elif planned is not None and planned < PROMISED_BY:
            # 100 steps of 16 ms paid 23 to 31 %, and 40 of them 39 to 56 %
            cost = f"in more than {100 * most:.2g} % of the time of only {planned:,} steps"
        elif planned is not None and planned <= steps:
            cost = f"in about {100 * most:.2g} % of the time of these {planned:,} steps"
        else:
            cost = (
                f"in {100 * share:.2g} % of the training time, and about {100 * most:.2g} % in the "
                f"first {steps:,} steps"
            )
        gauges = configuration.gauges.split(",")
        shown = ", to see if the batch is too small or too large" if "noise" in gauges else ""
        self.say(f"{path}: measures {', '.join(gauges)} {cost}{shown}")

    def show(self, run: Run | None) -> None:
        """Write the page of a run that was measured, and print its path. A page that fails is a
        logged warning."""
        if not (self.page and run is not None and (run.gauges or run.signs)):
            return
        from gradiometer.report.page.page import write_page  # noqa: PLC0415 (its charts take a second to import)

        try:
            self.say(f"the page is {write_page(run, verdict.diagnose(run))}")
        except Exception as error:
            logging.getLogger("gradiometer").warning("the page was not written: %s", error)


def check_place(out: Any, name: Any, to: Any) -> None:
    """Check where a run is recorded: its folder, its name, and its trackers.

    Raises:
        BadArgument: One of them cannot be used.
    """
    folder_of("out", out)
    if not isinstance(name, str):
        raise BadArgument(f"`name` must be a string, got {type_name(name)}.")
    several = not isinstance(to, str | bytes)
    try:
        iter(to)
    except TypeError:
        # such as a tensor without axes, which says that it is iterable
        several = False
    if not several:
        raise BadArgument(
            f"`to` must be a list of trackers, got {type_name(to)}: give to=[tracker]."
        )


NO_GAUGES = Asked(())


class WatchedRun:
    """The run of a watched training: made at its first step, written, read and closed.

    Args:
        out: Folder of the runs.
        name: Beginning of the run's name.
        shield: Entered by everything that training calls.
        warn: Takes a warning, which is kept with the run.
        announcements: What is printed, and the page at the end.
        asked: The settings `every`, `parts`, `level` and `gauges`.
        gauges: The gauges.
        is_first: True on the process that has the run.
        write_rest: Gives the recorder what waits to be written.
    """

    def __init__(
        self,
        *,
        out: Path,
        name: str,
        shield: Shield,
        warn: WarningLog,
        announcements: Announcements,
        asked: Mapping[str, Any] | None = None,
        gauges: Asked = NO_GAUGES,
        is_first: bool = True,
        write_rest: Callable[[], None] = lambda: None,
    ) -> None:
        self.name = file_name(name)
        self.asked = asked or {}
        self.gauges = gauges
        self.shield = shield
        self.recorder: Recorder | None = None
        # The run begins with the first step.
        self.has_begun = False
        self._out = out
        self._warn = warn
        self.announcements = announcements
        self._is_first = is_first
        self._write_rest = write_rest
        self._evaluations: list[tuple[int, Evaluation]] = []
        self._restored: Mapping[str, Any] = {}

    @property
    def run(self) -> Run | None:
        """The run as it is on disk now; None before the first step, unless a state was loaded, if
        it cannot be read, and on ranks other than 0."""
        if self.recorder is None:
            # A loop that goes on may ask for a fork before its first step; the first step says what
            # is wrong with the run.
            if "run" in self._restored and self._is_first:
                with suppress(GradiometerError):
                    return Run.open(Path(str(self._restored["run"])))
            return None
        self._save()
        with self.shield:
            return Run.open(self.recorder.folder.place, gauges=self.gauges.given)
        return None

    def findings(self) -> Findings:
        """The findings so far, the most urgent first, and the warnings."""
        run = self.run
        diagnosis = None
        try:
            diagnosis = None if run is None else verdict.diagnose(run)
        except Exception as error:  # the measuring itself has not failed
            if self.shield.before_first_update:
                raise
            self._warn(f"the findings could not be made: {reason_of(error)}")
        found = () if diagnosis is None else diagnosis.findings
        warnings = [*(run.warnings if run else ()), *self._warn.texts]
        return Findings(found, dict.fromkeys(warnings), diagnosis)

    def card(self) -> str:
        """A card for notebooks: the run and its findings."""
        return self.findings().card_of(self.run)

    def state_dict(self, steps: int) -> dict[str, Any]:
        """Plain values, without tensors, after this number of steps."""
        if self.recorder is None:
            # before the first step, what was loaded is still the state
            return {**self._restored, "steps": steps}
        self._save()
        return {
            "steps": steps,
            "run": str(self.recorder.folder.path),
            "recorder": self.recorder.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> int:
        """Continue the run of a checkpoint. Returns its number of steps.

        Raises:
            BadArgument: The run has begun, or this is no state of a watch.
        """
        if self.has_begun:
            raise BadArgument(
                "`state` came too late: load it before the first step, to continue the same run."
            )
        if "steps" not in state:
            raise BadArgument(
                "`state` is not the state_dict of a watch: give what `state_dict()` returned."
            )
        check_whole("state['steps']", state["steps"], 0)
        self._restored = state
        return int(state["steps"])

    def begin_elsewhere(self, recorder: Recorder | None = None) -> None:
        """The run begins, and is made by somebody else: by our training, or by rank 0."""
        self.has_begun = True
        self.recorder = recorder

    def begin(
        self, manifest: Mapping[str, Any], gauges: Sequence[Gauge], step: int, **settings: Any
    ) -> Recorder:
        """Make the run, or continue that of a checkpoint. Returns its recorder.

        Args:
            manifest: The contents of `run.toml`.
            gauges: The gauges.
            step: The next step.
            settings: Further arguments of `Recorder`.
        """
        self.has_begun = True
        if self.is_continued:
            recorder = Recorder(RunFolder.open(self._restored["run"]), gauges, **settings)
            recorder.load_state_dict(self._restored["recorder"])
            recorder.resume(step)
        else:
            folder = RunFolder.create(self._out, self.name, manifest)
            recorder = Recorder(folder, gauges, **settings)
            recorder.event("started", step)
        self.recorder = recorder
        self._warn.attach(recorder)
        return recorder

    def announce(
        self, configuration: WatchedConfiguration, *, early: tuple[float, int], planned: int | None
    ) -> None:
        """Print where the run is and what is measured: see `Announcements.begin`."""
        if self.recorder is not None:
            path = self.recorder.folder.path
            self.announcements.begin(path, configuration, early=early, planned=planned)

    @property
    def is_continued(self) -> bool:
        """True if the run is that of a checkpoint."""
        return "run" in self._restored

    @property
    def has_ended(self) -> bool:
        """True if the run is closed."""
        return self.recorder is not None and self.recorder.closed

    def event(self, event: str, step: int, **fields: Any) -> None:
        """Write an event, if the run has not ended."""
        if self.recorder is not None and not self.recorder.closed:
            self.recorder.event(event, step, **fields)

    def evaluation(self, step: int, evaluation: Evaluation) -> None:
        """Write an evaluation after this number of steps, as soon as there is a run."""
        if self.has_ended:
            self._warn(
                f"the evaluation after step {step:,} was not recorded, because the run has "
                "ended: call `evaluated` inside `with watch(...) as w:`"
            )
            return
        self._evaluations.append((step, evaluation))
        self.write_evaluations()

    def write_evaluations(self) -> None:
        """Write the evaluations that wait, if there is a run."""
        if self.recorder is None:
            return
        waiting = self._evaluations
        self._evaluations = []
        with self.shield:
            for step, evaluation in waiting:
                self.recorder.evaluation(step, evaluation)

    def show_again(self, run: Run) -> None:
        """Write the page again, if the run has ended."""
        if self.has_ended:
            self.announcements.show(run)

    def close(self, error: BaseException | None, steps: int) -> None:
        """Write everything, and the end of the training. `error` is the user's own, which hides
        ours."""
        if self.recorder is None:
            return
        with self.shield, suppress(*(Exception,) if error else ()), self.recorder as recorder:
            with self.shield:
                self._write_rest()
            reason = {} if error is None else {"reason": summary(error)}
            recorder.event("finished" if error is None else "interrupted", steps, **reason)
        self.recorder.budget.stop()  # what is charged to it from now on starts it
        with self.shield:
            self.announcements.show(self.run)

    def _save(self) -> None:
        with self.shield:
            if self.recorder is not None and not self.recorder.closed:
                self._write_rest()
                self.recorder.flush()
