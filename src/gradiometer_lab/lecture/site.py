"""The lecture as a site: one page per statement, and an index with a table of predictions and
measurements.

The pages are plain files that need no network: pictures are SVG, simulations are short scripts. In
a picture the prediction is diamonds on a dashed line, the measurement is points with bars.
"""

import json
import math
import re
from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import altair as alt
import vl_convert
from markupsafe import Markup

from gradiometer import __version__
from gradiometer.errors import BadArgument
from gradiometer.measurement.estimate import Estimate
from gradiometer.report.charts.axes import LogAxis, plain_row
from gradiometer.report.charts.charts import vl_version
from gradiometer.report.charts.interval_strip import interval, number
from gradiometer.report.charts.marks import (
    NUMBER,
    Row,
    bars,
    layered,
    linear_x,
    linear_y,
    log_x,
    log_y,
    named_series,
    off_the_axis,
)
from gradiometer.report.charts.theme import CHARTS, PAGE, PAGE_FONT, THEME, config
from gradiometer.report.page.document import environment, script_hash, source
from gradiometer.report.sections.section import Numbers
from gradiometer.storage.disk import replace_file, writing
from gradiometer_lab.lecture.statement import LEVEL, Experiment, ExperimentResult, Result, Statement

SIZES = THEME["lecture"]

PREDICTED, MEASURED = "predicted", "measured"
CLAIM, WRONG = "the claim", "a wrong theory"

# The horizontal channel of a picture, for a field of its rows.
Horizontal = Callable[[str], alt.X]


def svg(outcome: ExperimentResult, *, with_measurement: bool = True, page: str = "") -> str:
    """The picture as SVG in the page's own colours, so that it fits dark mode and print.

    Args:
        outcome: What is drawn.
        with_measurement: False to draw the prediction alone.
        page: A prefix for the names inside, for a page with pictures of several statements.
    """
    spec = chart(outcome, with_measurement=with_measurement).to_dict() | {
        "config": config(PAGE, PAGE_FONT)
    }
    drawn: str = vl_convert.vegalite_to_svg(json.dumps(spec), vl_version())
    # Several pictures share a page: the ids of their clips and gradients must differ.
    place = f"{page}{outcome.experiment.name}-{'both' if with_measurement else 'predicted'}-"
    return re.sub(r'(id="|url\(#)(clip|gradient)', rf"\1{place}\2", drawn)


def chart(outcome: ExperimentResult, *, with_measurement: bool = True) -> alt.LayerChart:
    """Prediction and measurement along the dial; a claim that fails is a dotted line, a wrong
    theory a dash-dotted one.

    The axes fit both, also if the prediction is drawn alone, so that the two pictures match.
    """
    experiment = outcome.experiment
    claimed = experiment.claimed
    others = (*claimed, *outcome.rival)
    drawn = [*outcome.predicted, *outcome.measured]
    if experiment.log:
        vertical = LogAxis.holding(drawn, also=others)
        y, row = log_y(vertical, experiment.quantity), vertical.row
    else:
        row = plain_row
        ends = [end for each in drawn for end in (each.low, each.value, each.high)]
        ends = [end for end in (*ends, *others) if math.isfinite(end)]
        room = 0.06 * (max(ends) - min(ends))
        scale = alt.Scale(domain=[min(ends) - room, max(ends) + room], nice=False)
        y = linear_y(experiment.quantity, NUMBER, scale)
    x = _dial(experiment)
    theories = {CLAIM: (claimed, SIZES["claim_dash"]), WRONG: (outcome.rival, SIZES["rival_dash"])}
    theories = {name: theory for name, theory in theories.items() if theory[0]}
    drawn_series = [*([MEASURED] if with_measurement else []), PREDICTED, *theories]
    # Colour and shape of each series, the same in all pictures. The legend names those drawn.
    series = named_series((MEASURED, PREDICTED, CLAIM, WRONG))
    for channel in series.values():
        channel.legend = alt.Legend(
            title=None, values=drawn_series, columns=2, labelLimit=SIZES["legend_label"]
        )
    layers: list[alt.Chart | alt.LayerChart] = []
    for name, (values, dash) in theories.items():
        # What another theory says, as a line with points. A log axis leaves out zero.
        rows = [
            {"dial": point, "theory": value, "series": name}
            for point, value in zip(experiment.points, values, strict=True)
            if value > 0 or not experiment.log
        ]
        base = _base(rows, x)
        line = base.mark_line(strokeDash=dash, strokeCap="round", strokeWidth=SIZES["line"])
        layers.append(line.encode(y=y("theory"), color=series["color"]))
        layers.append(
            base.mark_point(filled=False, size=SIZES["theory_point"]).encode(
                y=y("theory"), **series
            )
        )
    rows = _rows(experiment.points, outcome.predicted, PREDICTED, row)
    base, colour = _base(rows, x), series["color"]
    known = base.transform_filter("datum.value !== null")
    area = base.transform_filter("datum.low !== null && datum.high !== null").mark_area()
    layers += [
        area.encode(y=y("low"), y2="high:Q", color=colour),
        known.mark_line(strokeDash=SIZES["prediction_dash"], strokeWidth=SIZES["line"]).encode(
            y=y("value"), color=colour
        ),
        known.mark_point(
            size=SIZES["prediction_point"], filled=False, strokeWidth=SIZES["prediction_stroke"]
        ).encode(y=y("value"), **series),
        *off_the_axis(base, rows, y),
    ]
    if with_measurement:
        rows = _rows(experiment.points, outcome.measured, MEASURED, row)
        base = _base(rows, x)
        layers += [bars(base, y, **series), *off_the_axis(base, rows, y)]
    # Small enough to read on a telephone, on which a picture is as wide as the screen.
    return layered(*layers).properties(width=SIZES["width"], height=SIZES["height"])


def _rows(
    points: Sequence[float] | Sequence[int],
    estimates: Sequence[Estimate],
    name: str,
    row: Callable[[Estimate], Row],
) -> list[Row]:
    plain = {"series": name, "open": "", "middle": None}
    return [
        plain | {"dial": point, **row(estimate)}
        for point, estimate in zip(points, estimates, strict=True)
    ]


def _base(rows: Sequence[Row], x: Horizontal) -> alt.Chart:
    return alt.Chart(alt.Data(values=list(rows))).encode(x=x("dial"))


def _dial(experiment: Experiment) -> Horizontal:
    if experiment.log_dial and min(experiment.points) > 0:
        return log_x(
            LogAxis.holding([Estimate.exact(float(point)) for point in experiment.points]),
            experiment.dial,
        )
    is_whole = all(float(point).is_integer() for point in experiment.points)
    ticks = {"tickCount": CHARTS.ticks, **({"tickMinStep": 1} if is_whole else {})}
    return linear_x(
        experiment.dial, alt.Scale(zero=False, padding=CHARTS.across_padding), NUMBER, **ticks
    )


TEMPLATES = files("gradiometer_lab.lecture") / "templates"
REPORT = files("gradiometer.report") / "templates"


class Site:
    """The site, written while the lecture goes on: each page when its statement is measured, and
    the index each time.

    Args:
        folder: Folder of the site; created if it does not exist.
        statements: All statements of this lecture, in order. The index names those that are still
            to come.

    Raises:
        StorageFailed: The folder cannot be made.
    """

    def __init__(self, folder: Path, statements: Sequence[Statement]) -> None:
        if folder.exists() and not folder.is_dir():
            raise BadArgument(f"`--out` must be a folder, got the file {folder}.")
        self.folder = folder
        self.statements = tuple(statements)
        self.results: list[Result] = []
        self.left = ""
        with writing(folder, "choose another folder"):
            folder.mkdir(parents=True, exist_ok=True)
            self._write_index()

    def add(self, shown: Result, left: str = "") -> Path:
        """Write the page of the next statement, and return the index.

        Args:
            shown: The statement.
            left: The time that the statements to come will take, in words; empty if unknown.

        Raises:
            StorageFailed: It cannot be written.
        """
        self.results.append(shown)
        self.left = left
        with writing(self.folder, "choose another folder"):
            # the page before links to it
            for place in range(max(len(self.results) - 2, 0), len(self.results)):
                now = self.results[place]
                before = self.results[place - 1].statement if place else None
                after = self.results[place + 1 :]
                name, simulation = page_name(now), now.statement.interactive
                scripts = ["simulation.js", "dials.js"] if simulation else []
                _write(
                    self.folder / name,
                    "statement.html.jinja",
                    shown=now,
                    before=before,
                    after=after[0].statement if after else None,
                    formula=Markup(source(TEMPLATES, f"formula_{name}")),
                    figures=[_figure(outcome) for outcome in now.outcomes],
                    simulation=simulation,
                    scripts=[
                        Markup(source(TEMPLATES, script)) for script in (*scripts, "project.js")
                    ],
                )
            return self._write_index()

    def _write_index(self) -> Path:
        index = self.folder / "index.html"
        _write(
            index,
            "index.html.jinja",
            results=self.results,
            rows=[_index_row(shown) for shown in self.results],
            to_come=self.statements[len(self.results) :],
            left=self.left,
            level=LEVEL,
            scripts=[Markup(source(TEMPLATES, script)) for script in ("simulation.js", "dials.js")],
        )
        return index


def write_site(results: Sequence[Result], folder: Path) -> Path:
    """Write a page for every statement, and the index.

    Args:
        results: Statements with their outcomes, in the lecture's order.
        folder: Folder of the site; created if it does not exist.

    Returns:
        The index page.

    Raises:
        StorageFailed: The pages cannot be written.
    """
    site = Site(folder, [shown.statement for shown in results])
    return [site.add(shown) for shown in results][-1]


def page_name(shown: Result) -> str:
    """File name of a statement's page: s01.html."""
    return f"s{int(shown.statement.name[1:]):02d}.html"


def _write(path: Path, template: str, **parts: Any) -> None:
    text = (
        environment("gradiometer_lab.lecture", "gradiometer.report")
        .get_template(template)
        .render(
            style=Markup(source(REPORT, "page.css") + source(TEMPLATES, "lecture.css")),
            script_hashes=[script_hash(script) for script in parts["scripts"]],
            version=__version__,
            page_name=page_name,
            **parts,
        )
    )
    # Whole or not at all: a browser may read the page while the lecture goes on.
    replace_file(path, text.encode())


def _figure(outcome: ExperimentResult) -> dict[str, Any]:
    experiment = outcome.experiment
    where, rival = experiment.where, experiment.rival
    # A sentence for screen readers, with the numbers at the last position.
    ours, theirs = outcome.predicted[-1], outcome.measured[-1]
    held = outcome.points_held
    summary = (
        f"{experiment.quantity}: at {experiment.dial} {number(float(experiment.points[-1]))}, "
        f"{prediction(ours)} predicted, {theirs} measured. {sum(held)} of {len(held)} points as "
        "predicted."
    )
    theories = {"the claim": experiment.claimed, "a wrong theory": outcome.rival}
    columns = {
        experiment.dial: [number(float(point)) for point in experiment.points],
        "predicted": map(prediction, outcome.predicted),
        "measured": [number(each.value) for each in outcome.measured],
        "interval": map(interval, outcome.measured),
        **{name: map(number, values) for name, values in theories.items() if values},
        "as predicted": ["✓ yes" if each else "✗ no" for each in held],
    }
    return {
        "experiment": experiment,
        # A symbol keeps its case.
        "heading": where[0].upper() + where[1:] if where[0].isascii() else where,
        "held": outcome.held,
        # What the wrong theory says at the last position, and whether it is excluded.
        "rival": ""
        if rival is None
        else (
            f"{rival.says}: {number(outcome.rival[-1])} at the last point, excluded at "
            f"{outcome.refuted} of {len(outcome.rival)} points"
        ),
        "both": Markup(svg(outcome)),
        "predicted": Markup(svg(outcome, with_measurement=False)),
        "summary": summary,
        "table": Numbers(tuple(columns), tuple(zip(*columns.values(), strict=True))),
    }


def prediction(estimate: Estimate) -> str:
    """A prediction as one number, or as an interval if its ends differ."""
    return (
        number(estimate.low)
        if number(estimate.low) == number(estimate.high)
        else interval(estimate)
    )


def _index_row(shown: Result) -> dict[str, Any]:
    """The statement's row in the table of the index."""
    ours, theirs = shown.headline
    return {
        "shown": shown,
        "picture": Markup(svg(shown.real, page=shown.statement.name)),
        "quantity": shown.real.experiment.quantity,
        "predicted": prediction(ours),
        "measured": f"{number(theirs.value)} {interval(theirs)}"
        if theirs.low < theirs.high
        else number(theirs.value),
        "rival": number(shown.real.rival[-1]) if shown.real.rival else "",
        "rival_says": shown.real.experiment.rival.says if shown.real.experiment.rival else "",
        "experiments": (
            f"{sum(outcome.held for outcome in shown.outcomes)} of {len(shown.outcomes)}"
        ),
    }
