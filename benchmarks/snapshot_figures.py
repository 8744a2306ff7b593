"""The pictures of the snapshot study, after figures 2, 3, 5 and 6 of Huang et al. (2017)."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import altair as alt
from snapshot_runs import HOT
from snapshot_scores import HOT_SNAPSHOT, LEVEL, NO_CYCLE, SNAPSHOT, Study

from gradiometer.exploration.ensembles import averaged, differences
from gradiometer.report.charts import save_png

WIDTH, HEIGHT = 420, 260
COLOURS = ("#0067a5", "#b24700", "#2a7d3a", "#7b3f98")
Row = dict[str, Any]


def figures(study: Study, out: Path) -> Iterator[Path]:
    """Draw what the first seed of a regime shows."""
    charts = {
        "2-epochs": _epochs,
        "3-growing": _growing,
        "5-interpolation": _interpolation,
        "6-correlation": _correlation,
    }
    for name, draw in charts.items():
        chart, title = draw(study)
        path = out / f"{study.regime.name}-figure-{name}.png"
        yield save_png(
            chart, path, f"{title} ({study.regime.images:,} images, {study.regime.epochs} epochs)"
        )


def _runs(study: Study) -> dict[str, tuple[str, float]]:
    runs = {SNAPSHOT: ("snapshot", 0.1), NO_CYCLE: ("step", 0.1)}
    if study.seeds[0] in study.hot_seeds:
        runs[HOT_SNAPSHOT] = ("snapshot", HOT)
    return runs


def _epochs(study: Study) -> tuple[alt.LayerChart, str]:
    """Figure 2: what heating and cooling does to the loss and the error."""
    runs = {"cosine": ("cosine", 0.1), "step": ("step", 0.1), **_runs(study)}
    del runs[NO_CYCLE]
    rows = [
        {"epoch": epoch, "run": name, "value": value, "of": of}
        for name, (method, rate) in runs.items()
        for epoch, loss, error in study.curve(method, study.seeds[0], rate)
        for of, value in (("training loss", loss), ("test error", error))
    ]
    lines = _base(rows).mark_line()
    lines = lines.encode(
        x=alt.X("epoch:Q", title="epoch"),
        y=_logarithmic(rows, "training loss (dashed), test error (solid)"),
        color=_colours(runs),
        strokeDash=alt.StrokeDash("of:N", legend=None, sort=["test error", "training loss"]),
    )
    return alt.layer(lines), "Loss and error along the runs"


def _growing(study: Study) -> tuple[alt.LayerChart, str]:
    """Figure 3: the last m averaged against the last one alone, paired by image."""
    runs, rows = _runs(study), list[Row]()
    for name, (method, rate) in runs.items():
        members = study.said(method, study.seeds[0], rate)
        averages = [study.split(averaged(members[-count:])) for count in range(1, len(members) + 1)]
        for count, average in enumerate(averages[1:], start=2):
            saved = differences(average, averages[0], LEVEL)["calibrated_nll"]
            rows.append(
                {
                    "m": count,
                    "run": name,
                    "value": saved.value,
                    "low": saved.low,
                    "high": saved.high,
                }
            )
    base = _base(rows).encode(
        x=alt.X("m:O", axis=alt.Axis(title="m, the last models averaged", labelAngle=0)),
        xOffset=alt.XOffset("run:N"),
        color=_colours(runs),
    )
    title = "calibrated log-loss less that of the last model"
    bars = base.mark_rule(strokeWidth=2).encode(y=alt.Y("low:Q", title=title), y2="high:Q")
    points = base.mark_point(filled=True, size=50).encode(y=alt.Y("value:Q", title=title))
    return alt.layer(bars, points), "The last m models averaged"


def _interpolation(study: Study) -> tuple[alt.LayerChart, str]:
    """Figure 5: the test error from each earlier model to the last, and between two independent
    runs."""
    seed, runs = study.seeds[0], _runs(study)
    if len(study.seeds) >= 2:
        runs["two full independent"] = "cosine", 0.1
    rows = [
        {"share": share, "value": error.value, "run": name, "number": number}
        for name, (method, rate) in runs.items()
        for number, found in enumerate(study.paths(method, seed, rate), start=1)
        for share, error in zip(found.shares, found.errors, strict=True)
    ]
    lines = _base(rows).mark_line()
    lines = lines.encode(
        x=alt.X("share:Q", title="λ, from the earlier model (0) to the last (1)"),
        y=_logarithmic(rows, "test error"),
        color=_colours(runs),
        detail="number:N",
    )
    return alt.layer(lines), "Test error on the way from each model to the last"


def _correlation(study: Study) -> tuple[alt.LayerChart, str]:
    """Figure 6: the correlation of the outputs, for every pair."""
    rows = list[Row]()
    for place, (name, (method, rate)) in enumerate(_runs(study).items()):
        members = study.said(method, study.seeds[0], rate)
        for pair, found in study.correlations(members).items():
            one, other = map(int, pair.split("-"))
            cell = {"value": found.value, "text": f"{found.value:.3f}", "row": f"{one}"}
            rows.append({**cell, "column": f"{name}: {other}", "place": 10 * place + other})
    dark = sum(row["value"] for row in rows) / len(rows)
    base = _base(rows).properties(width=WIDTH * 1.6)
    x = alt.X("column:O", title="run and model", sort=alt.EncodingSortField("place"))
    y = alt.Y("row:O", title="model")
    cells = base.mark_rect().encode(x=x, y=y, color=alt.Color("value:Q", title="correlation"))
    ink = alt.condition(f"datum.value > {dark}", alt.value("white"), alt.value("black"))
    text = base.mark_text(fontSize=10).encode(x=x, y=y, text="text:N", color=ink)
    return alt.layer(cells, text), "Correlation of the outputs"


def _base(rows: list[Row]) -> alt.Chart:
    return alt.Chart(alt.Data(values=rows)).properties(width=WIDTH, height=HEIGHT)


def _colours(names: Iterable[str]) -> alt.Color:
    """One each: more runs are compared here than on a page."""
    domain = list(names)
    return alt.Color(
        "run:N", title=None, scale=alt.Scale(domain=domain, range=list(COLOURS[: len(domain)]))
    )


def _logarithmic(rows: list[Row], title: str) -> alt.Y:
    values = [row["value"] for row in rows]
    return alt.Y(
        "value:Q",
        title=title,
        scale=alt.Scale(type="log", domain=[0.9 * min(values), 1.1 * max(values)]),
    )
