"""A small card for notebooks: findings with their intervals as bars, without scripts and style
sheets."""

from collections.abc import Iterable, Sequence

from gradiometer.measurement.finding import Finding
from gradiometer.report.page.cards import Shown
from gradiometer.report.page.document import rendered
from gradiometer.report.sections.questions import Answer
from gradiometer.run.reader import Run
from gradiometer.verdict.diagnosis import Diagnosis

COLOURS = {"act": "#d6595e", "look": "#b07a16", "cannot_tell": "#7d8894", "ok": "#37945c"}
"""One colour for each state, with a contrast of 3 to 1 on white and on black. Words have the colour
of the notebook."""


def card(
    findings: Sequence[Finding],
    warnings: Iterable[str],
    diagnosis: Diagnosis | None,
    run: Run | None = None,
) -> str:
    """The card as HTML. All styles are inside the elements.

    Args:
        findings: The findings, the most urgent first.
        warnings: What was wrong with the loop or with measuring it.
        diagnosis: The diagnosis with their estimates; None if there are none to draw.
        run: The run, whose name, state, steps and folder are shown; None to leave them out.
    """
    estimates = {} if diagnosis is None else diagnosis.estimates
    gauges = {} if diagnosis is None else {gauge.name: gauge for gauge in diagnosis.gauges}
    page = None if run is None else run.path / "report.html"
    return rendered(
        "notebook.html.jinja",
        shown=[
            Shown.of(Answer(finding, estimates, gauges.get(finding.gauge))) for finding in findings
        ],
        warnings=tuple(warnings),
        quantities={} if diagnosis is None else diagnosis.labels,
        colours=COLOURS,
        run=run,
        page=page if page is not None and page.is_file() else None,
    )
