"""What the warnings of a run take from its findings: gauges that have stopped, and verdicts that do
not hold."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from gradiometer.measurement.finding import Doubt, Finding, Issue, State


@dataclass(frozen=True)
class Reservations:
    """What the warnings of a run take from its findings: gauges that have stopped, and verdicts
    that do not hold.

    Args:
        loss: The warning that the measured loss is not the trained one; empty without one.
        place: The warning that steps are not recorded where they are made; empty without one.
        stopped: Step and reason, by the name of a gauge that is no longer measured. `all` stands
            for every gauge.
    """

    loss: str = ""
    place: str = ""
    stopped: Mapping[str, tuple[int, str]] = field(default_factory=dict)

    @classmethod
    def of(cls, events: Iterable[Mapping[str, Any]]) -> "Reservations":
        """Read them from the events of a run. A process that resumes the run begins without any."""
        why = {"loss": "", "place": ""}
        stopped = dict[str, tuple[int, str]]()
        for event in events:
            if event["event"] == "resumed":
                why, stopped = {"loss": "", "place": ""}, {}
            withheld = event.get("withholds") if event["event"] == "warning" else None
            if withheld in why:
                why[withheld] = why[withheld] or str(event["text"])
            if event["event"] == "warning" and "stopped" in event:
                stopped.setdefault(str(event["stopped"]), (int(event["step"]), str(event["text"])))
        return cls(why["loss"], why["place"], stopped)

    def why(self, gauge: str) -> tuple[int, str] | None:
        """The step after which a gauge was not measured, and the reason; None if it
        did not stop."""
        return self.stopped.get(gauge, self.stopped.get("all"))

    def on(self, finding: Finding, *, uses_loss: bool) -> Finding:
        """The finding with these reservations.

        Args:
            finding: What a gauge found.
            uses_loss: True if the gauge was measured with the loss that the user gave.
        """
        if self.place:
            return Finding(finding.gauge, finding.issue, "step_misplaced", State.CANNOT_TELL)
        if uses_loss and self.loss:
            return Finding(
                finding.gauge, finding.issue, "loss_differs", State.CANNOT_TELL, finding.numbers
            )
        why = self.why(finding.gauge)
        if why is None:
            return finding
        if finding.state is State.CANNOT_TELL:
            return self.stop_of(finding.gauge, finding.issue)
        step, reason = why
        return replace(
            finding,
            doubts=(*finding.doubts, Doubt("not_measured_after", {"step": step, "reason": reason})),
        )

    def stop_of(self, gauge: str, issue: Issue) -> Finding:
        """The finding for a gauge that stopped before it could tell anything."""
        step, reason = self.stopped.get(gauge, self.stopped.get("all", (0, "")))
        return Finding(
            gauge, issue, "gauge_stopped", State.CANNOT_TELL, facts={"step": step, "reason": reason}
        )
