"""The five questions about a run and what answers them: the cards of the page and the lines of the
summary."""

import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from gradiometer.drift.batch_sharpness import BatchSharpness
from gradiometer.estimation.noise import GradientNoise
from gradiometer.gauges import GAUGES
from gradiometer.measurement import Estimates, Finding, Gauge
from gradiometer.run.configuration import Configuration

NOT_MEASURED, NOT_MEASURED_SYMBOL = "not measured", "○"


@dataclass(frozen=True)
class Answer:
    """A finding with its estimates.

    Args:
        finding: The finding.
        estimates: At least the estimates that the finding names.
        gauge: The gauge of the finding; needed for a gauge that is not in the catalogue.
    """

    finding: Finding
    estimates: Estimates
    gauge: Gauge | None = None

    @property
    def question(self) -> str:
        """The question that its gauge answers; empty if there is none."""
        known = self.gauge or GAUGES.get(self.finding.gauge)
        return "" if known is None else known.question


@dataclass(frozen=True)
class Question:
    """A question about a run.

    Args:
        name: Its anchor on the page.
        short: The question in one or two words.
        words: The question.
        section: Name of the section with the charts behind it.
        others: Names of findings that answer it and are not from a gauge.
        needs: The measurements that an answer needs.
        command: The command that makes them. {run} is the folder of the run, and {train} the
            beginning of the command that trains it again.
        first: The command if the run has no snapshots; empty if `command` needs none.
        in_a_loop: What does so in a program with `watch`; empty if nothing does.
    """

    name: str
    short: str
    words: str
    section: str
    others: tuple[str, ...]
    needs: str
    command: str
    first: str = ""
    in_a_loop: str = ""

    def is_answered_by(self, answer: Answer) -> bool:
        """True if the gauge of the finding has this question, or if `others` lists the finding."""
        return answer.question == self.words or answer.finding.gauge in self.others

    def answers(self, found: Iterable[Answer]) -> tuple[Answer, ...]:
        """The answers to this question, the most urgent first."""
        mine = [answer for answer in found if self.is_answered_by(answer)]
        return tuple(sorted(mine, key=lambda answer: answer.finding.state.rank))

    def command_for(self, path: Path, configuration: Configuration) -> str:
        """The command for a run in this folder."""
        command = self.command if configuration.snapshots else self.first or self.command
        problem = shlex.quote(configuration.problem)
        model = f" --model {shlex.quote(configuration.model)}" if configuration.model else ""
        train = f"gradiometer train {problem}{model}"
        return command.format(run=shlex.quote(str(path)), train=train)


# The questions, in the order in which a run can answer them.
QUESTIONS = (
    Question(
        name="batch",
        short="batch",
        words=GradientNoise.question,
        section="estimation",
        others=(),
        needs="The noise scale from a few measured steps, compared with B.",
        command="{train} --every 10",
        in_a_loop="watch(…, every=10)",
    ),
    Question(
        name="learning-rate",
        short="stability",
        words=BatchSharpness.question,
        section="drift",
        others=("sharpness",),
        needs="The sharpness at the current parameters, compared with the edge of stability.",
        command="gradiometer measure sharpness {run}",
        in_a_loop="watch(…, loss=loss)",
    ),
    Question(
        name="plateau",
        short="plateau",
        words="Has this learning rate stopped paying off?",
        section="convergence",
        others=("stationarity",),
        needs="The slope of the loss with an interval, compared with the gain of a cut.",
        command="{train} --cool watch --every 20",
    ),
    Question(
        name="converged",
        short="converged",
        words="Has training arrived at a minimum?",
        section="convergence",
        others=("certificate",),
        needs="An upper bound on the norm of the full gradient, and the smallest curvature.",
        command="gradiometer measure certificate {run}",
        in_a_loop="w.certify(train)",
    ),
    Question(
        name="ensemble",
        short="ensemble",
        words="Is there an ensemble in this run?",
        section="ensemble",
        others=("ensemble",),
        needs=(
            "Snapshots at the ends of cooling cycles, whose joint score is compared with that of "
            "the last one."
        ),
        command="gradiometer ensemble {run}",
        first="{train} --snapshots 5",
        in_a_loop="w.snapshot(), w.ensemble(test)",
    ),
)

# Titles of findings that come from no gauge and answer none of the five questions.
FURTHER = {
    "triage": "What limits this run?",
    "schedule": "Does the learning rate end at zero?",
    "endpoint": "What is special about where training ended?",
    "spikes": "Did the loss spike?",
    "overhead": "Are there enough readings?",
    "log_spikes": "Did the loss spike?",
    "log_finite": "Are the losses finite?",
    "log_staircase": "Does the loss fall in stairs?",
    "log_learning_rate": "How does the learning rate change?",
    "log_steps": "Are the steps in order?",
    "log_limits": "What does this log not show?",
}


def title_of(answer: Answer) -> str:
    """The question that a finding answers; of a gauge without one, its issue and its name."""
    finding = answer.finding
    others = {name: question.words for question in QUESTIONS for name in question.others}
    return (
        answer.question
        or FURTHER.get(finding.gauge)
        or others.get(finding.gauge)
        or f"{finding.issue.value} · {finding.gauge.replace('_', ' ')}"
    )
