"""The sections of the page, in order. A new section needs a file like `loss.py` and a line here."""

import warnings
from collections.abc import Callable

from gradiometer.errors import ran_out_of_memory, summary
from gradiometer.report.sections.convergence import convergence_section
from gradiometer.report.sections.drift import drift_section
from gradiometer.report.sections.ensemble import ensemble_section
from gradiometer.report.sections.estimation import estimation_section
from gradiometer.report.sections.exploration import exploration_section
from gradiometer.report.sections.forks import forks_section
from gradiometer.report.sections.loss import loss_section
from gradiometer.report.sections.section import Section
from gradiometer.report.sections.spikes import spikes_section
from gradiometer.run.reader import Run
from gradiometer.verdict.diagnosis import Diagnosis

SECTIONS: tuple[Callable[[Run, Diagnosis], Section], ...] = (
    loss_section,
    spikes_section,
    forks_section,
    estimation_section,
    drift_section,
    convergence_section,
    exploration_section,
    ensemble_section,
)
"""The page's sections: the loss, its spikes, what other settings would have done to it, then the
lecture's order."""


def sections(run: Run, diagnosis: Diagnosis) -> tuple[Section, ...]:
    """Every section of the page. One that cannot be drawn says so in its place."""
    return tuple(_drawn(section, run, diagnosis) for section in SECTIONS)


def _drawn(section: Callable[[Run, Diagnosis], Section], run: Run, diagnosis: Diagnosis) -> Section:
    try:
        return section(run, diagnosis)
    except Exception as error:
        if ran_out_of_memory(error):
            raise
        name = section.__name__.removesuffix("_section")
        words = f"the section could not be drawn: {summary(error)}"
        warnings.warn(f"{run.path}: {name}: {words}", RuntimeWarning, stacklevel=2)
        # under another name, so that no card takes it as its evidence and leaves its words out
        return Section(f"{name}-failed", name.capitalize(), f"T{words[1:]}.", (), words=words)
