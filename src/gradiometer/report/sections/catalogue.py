"""The sections of the page, in order. A new section needs a file like `loss.py` and a line here.
An installed package adds one by an entry point."""

import warnings
from collections.abc import Callable
from dataclasses import replace
from operator import itemgetter

from gradiometer.errors import UserCodeFailed, ran_out_of_memory, summary
from gradiometer.extensions import Registry
from gradiometer.measurement.finding import Issue
from gradiometer.report.sections.convergence import convergence_section
from gradiometer.report.sections.drift import drift_section
from gradiometer.report.sections.estimation import estimation_section
from gradiometer.report.sections.forks import forks_section
from gradiometer.report.sections.loss import loss_section, spikes_section
from gradiometer.report.sections.section import Section
from gradiometer.run.reader import Run
from gradiometer.verdict.diagnosis import Diagnosis

# The page's sections: the loss, its spikes, what other settings would have done to it, then the
# lecture's order. Those that packages add stand with the others of their issue.
MakeSection = Callable[[Run, Diagnosis], Section]

SECTIONS: Registry[MakeSection] = Registry(
    "gradiometer.sections",
    "section",
    {
        "loss": loss_section,
        "spikes": spikes_section,
        "forks": forks_section,
        "estimation": estimation_section,
        "drift": drift_section,
        "convergence": convergence_section,
    },
    lambda name, found: "" if callable(found) else "is no function",
)


# The issues of the sections that are built in; the others are about the loss.
OF_ISSUE = {
    "estimation": Issue.ESTIMATION,
    "drift": Issue.DRIFT,
    "convergence": Issue.CONVERGENCE,
}

# How the numbers of a section are measured, in a sentence or two.
METHODS = {
    "loss": (
        "The training loss is that of each batch before its update, averaged over blocks of steps. "
        "The test loss is a mean over test examples."
    ),
    "estimation": (
        "The noise is read from the gradients of training itself: from products of successive "
        "ones, or from halves or micro-batches of a step. Ratios are taken of means. Formulas: "
        "docs/explanation/estimation.md."
    ),
    "drift": (
        "Products with the Hessian come from a second backward; the edge is that of a quadratic. "
        "Formulas: docs/explanation/drift.md."
    ),
    "convergence": (
        "The conditions of the theorem are decided from the form of the schedule, the certificate "
        "from fresh batches. Formulas: docs/explanation/convergence.md."
    ),
}


def sections(run: Run, diagnosis: Diagnosis) -> tuple[Section, ...]:
    """Every section of the page. One that cannot be drawn says so in its place.

    Raises:
        UserCodeFailed: If a gauge of the person raises when its curve is made.
    """
    shown = list[tuple[int, Section]]()
    for name, section in SECTIONS.items():
        issue = OF_ISSUE.get(name)
        try:
            found = section(run, diagnosis)
            method, issue = found.method or METHODS.get(name, ""), found.issue or issue
            drawn = replace(found, method=method, issue=issue)
        except UserCodeFailed:
            raise
        except Exception as error:
            if ran_out_of_memory(error):
                raise
            words = f"the section could not be drawn: {summary(error)}"
            warnings.warn(f"{run.path}: {name}: {words}", RuntimeWarning, stacklevel=2)
            # under another name, so that no card takes it as its evidence and leaves its words out
            title, lead = name.capitalize(), f"T{words[1:]}."
            drawn = Section(f"{name}-failed", title, lead, (), words=words, issue=issue)
        shown.append((_place(name, issue), drawn))
    return tuple(section for _, section in sorted(shown, key=itemgetter(0)))


def _place(name: str, issue: Issue | None) -> int:
    """Where a section stands: those about the loss, the issues in their order, then the rest."""
    if issue is not None:
        return 1 + list(Issue).index(issue)
    return 0 if name in SECTIONS.built_in else 1 + len(Issue)
