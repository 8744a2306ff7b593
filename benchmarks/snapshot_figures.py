"""The pictures of the snapshot study, after figures 2, 3, 5 and 6 of Huang et al. (2017)."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import altair as alt
from snapshot_runs import HOT
from snapshot_scores import HOT_SNAPSHOT, NO_CYCLE, SNAPSHOT, Study

from gradiometer.report.charts import save_png

WIDTH, HEIGHT = 420, 260
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
        yield save_png(chart, path, f"{title} ({study.regime.images:,} images, {study.regime.epochs} epochs)")


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
    base = alt.Chart(alt.Data(values=rows)).properties(width=WIDTH, height=HEIGHT)
    lines = base.mark_line().encode(
        x=alt.X("epoch:Q", title="epoch"),
        y=alt.Y("value:Q", title="training loss (dashed), test error (solid)", scale=alt.Scale(type="log")),
        color=alt.Color("run:N", title=None),
        strokeDash=alt.StrokeDash("of:N", legend=None, sort=["test error", "training loss"]),
    )
    return alt.layer(lines), "Loss and error along the runs"


def _growing(study: Study) -> tuple[alt.LayerChart, str]:
    """Figure 3: the last m averaged."""
    rows = [
        _row(size.scores["calibrated_nll"], m=size.count, run=name)
        for name, (method, rate) in _runs(study).items()
        for size in study.growing(method, study.seeds[0], rate)
    ]
    base = alt.Chart(alt.Data(values=rows)).properties(width=WIDTH, height=HEIGHT)
    x, color = alt.X("m:O", title="m, the last models averaged"), alt.Color("run:N", title=None)
    offset = alt.XOffset("run:N")
    y = alt.Y("value:Q", title="calibrated log-loss, nats", scale=alt.Scale(zero=False))
    bars = (
        base.mark_rule()
        .encode(x=x, xOffset=offset, color=color, y=y, y2="high:Q")
        .transform_calculate(value="datum.low")
    )
    return alt.layer(
        bars, base.mark_point(filled=True, size=50).encode(x=x, xOffset=offset, color=color, y=y)
    ), "The last m models averaged"


def _interpolation(study: Study) -> tuple[alt.LayerChart, str]:
    """Figure 5: the test error from each earlier model to the last, and between two independent runs."""
    seed, runs = study.seeds[0], _runs(study)
    if len(study.seeds) >= 2:
        runs["two full independent"] = "cosine", 0.1
    rows = [
        {"share": share, "value": error.value, "run": name, "number": number}
        for name, (method, rate) in runs.items()
        for number, found in enumerate(study.segments(method, seed, rate), start=1)
        for share, error in zip(found.shares, found.errors, strict=True)
    ]
    base = alt.Chart(alt.Data(values=rows)).properties(width=WIDTH, height=HEIGHT)
    lines = base.mark_line().encode(
        x=alt.X("share:Q", title="λ, from the earlier model (0) to the last (1)"),
        y=alt.Y("value:Q", title="test error", scale=alt.Scale(type="log")),
        color=alt.Color("run:N", title=None),
        detail="number:N",
    )
    return alt.layer(lines), "Test error on the way from each model to the last"


def _correlation(study: Study) -> tuple[alt.LayerChart, str]:
    """Figure 6: the correlation of the outputs, for every pair."""
    rows = list[Row]()
    runs = _runs(study)
    for place, (name, (method, rate)) in enumerate(runs.items()):
        members = study.said(method, study.seeds[0], rate)
        for (one, other), found in study.correlations(members).items():
            cell = {"value": found.value, "text": f"{found.value:.3f}", "row": f"{one + 1}"}
            rows.append({**cell, "column": f"{name}: {other + 1}", "place": 10 * place + other})
    base = alt.Chart(alt.Data(values=rows)).properties(width=WIDTH * 1.6, height=HEIGHT)
    x = alt.X("column:O", title="run and model", sort=alt.EncodingSortField("place"))
    y = alt.Y("row:O", title="model")
    cells = base.mark_rect().encode(x=x, y=y, color=alt.Color("value:Q", title="correlation"))
    return alt.layer(cells, base.mark_text(fontSize=10).encode(x=x, y=y, text="text:N")), "Correlation of the outputs"


def _row(estimate: Any, **more: Any) -> Row:
    return {"value": estimate.value, "low": estimate.low, "high": estimate.high, **more}
