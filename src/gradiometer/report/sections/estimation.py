"""The section of issue 1, estimation: noise scale, noise and gradient, the effect of the batch
size, and layers."""

import math
from collections.abc import Iterable

from gradiometer.estimation.batch_table import BatchTable, batch_sizes
from gradiometer.gauges import labels_of
from gradiometer.measurement.estimate import Estimate
from gradiometer.measurement.finding import Issue
from gradiometer.report.charts.axes import OPEN_ABOVE, UNKNOWN, LogAxis
from gradiometer.report.charts.batch_chart import batch_chart
from gradiometer.report.charts.charts import (
    layers_chart,
    noise_and_gradient_chart,
    noise_scale_chart,
)
from gradiometer.report.charts.interval_strip import number
from gradiometer.report.charts.marks import Curve
from gradiometer.report.sections.section import (
    Figure,
    Numbers,
    Section,
    by_layer,
    cells,
    change,
    numbers_of,
    quantity_table,
)
from gradiometer.run.reader import Run
from gradiometer.verdict.diagnosis import Diagnosis

MOST_LAYERS = 40
"""Maximum number of layers in the chart. The table has all of them."""


def estimation_section(run: Run, diagnosis: Diagnosis) -> Section:
    """Issue 1: noise scale, noise and gradient along the run, and by layer."""
    history, latest = diagnosis.history, diagnosis.estimates
    lead = "How accurate is ĝ, the gradient of one batch, as an estimate of the gradient g?"
    table = quantity_table(labels_of(diagnosis.gauges, Issue.ESTIMATION), latest)
    if "noise_scale" not in latest:
        return Section(
            "estimation",
            "Noise of the gradient",
            f"{lead} The noise has not been measured yet.",
            (),
            table,
        )
    figures = []
    curve = history.get("noise_scale", ())
    if curve:
        figures.append(_noise_scale_figure(curve, latest["batch_size"].value))
    variance, norm_squared = (
        history.get("gradient_variance", ()),
        history.get("gradient_norm_squared", ()),
    )
    if variance and norm_squared:
        figures.append(_noise_and_gradient_figure(variance, norm_squared))
    settings = run.hyperparameters
    if (
        settings is not None
        and settings.family == "sgd"
        and math.isfinite(latest["noise_scale"].low)
    ):
        present = round(latest["batch_size"].value)
        figures.append(_batch_figure(latest["noise_scale"], present, max(settings.peaks), run))
    layers, shares = by_layer(latest, "noise_scale/"), by_layer(latest, "noise_share/")
    if layers:
        figures.append(_layers_figure(layers, shares, latest["batch_size"].value))
    return Section("estimation", "Noise of the gradient", lead, tuple(figures), table)


def _noise_scale_figure(curve: Curve, batch_size: float) -> Figure:
    summary = f"The gradient noise scale {change(curve)}; B is {batch_size:,.0f}."
    return Figure(
        name="noise-scale",
        title="Gradient noise scale",
        chart=noise_scale_chart(curve, batch_size),
        summary=" ".join([summary, *_open_sentences((estimate for _, estimate in curve), "▲")]),
        table=numbers_of(curve, "noise scale, examples"),
        single=len(curve) == 1,
        note=(
            "Each point is the value at that step, from the readings up to it, with its "
            f"{curve[0][1].level:.0%} interval. If the noise scale is above B, a larger batch "
            "saves updates; if it is below B, a larger batch mostly costs examples."
        ),
    )


def _noise_and_gradient_figure(variance: Curve, norm_squared: Curve) -> Figure:
    summary = (
        f"The noise, tr Σ, {change(variance)}. The squared gradient norm, ‖g‖², "
        f"{change(norm_squared)}."
    )
    below = sum(not estimate.low > 0 for _, estimate in norm_squared)
    if below:
        where = "" if len(norm_squared) == 1 else f" in {below} of {len(norm_squared)} points"
        summary += f" The interval of ‖g‖² reaches zero (▼){where}."
    rows = [
        (f"{step:,}", *cells(noise), *cells(norm))
        for (step, noise), (_, norm) in zip(variance, norm_squared, strict=True)
    ]
    return Figure(
        name="noise-and-gradient",
        title="Noise and gradient",
        chart=noise_and_gradient_chart(variance, norm_squared, variance[0][1].unit),
        summary=summary,
        table=Numbers(("step", "tr Σ", "interval", "‖g‖²", "interval"), tuple(rows)),
        note="On this logarithmic axis, the distance between the two is the noise scale.",
        single=len(variance) == 1,
    )


def _batch_figure(noise_scale: Estimate, present: int, peak: float, run: Run) -> Figure:
    """Updates and examples at other batch sizes, with the noise scale of now. The forecast is one
    of SGD."""
    sizes = batch_sizes(present, run.sampling.examples)
    table = BatchTable.of([noise_scale], sizes, present=present, learning_rate=peak)
    rows = [
        (
            f"{row.batch_size:,}",
            number(row.learning_rate.value),
            *cells(row.updates),
            *cells(row.examples),
        )
        for row in table.rows
    ]
    largest = table.rows[-1]
    return Figure(
        name="batch-size",
        title="Effect of the batch size",
        chart=batch_chart(table),
        summary=(
            f"To reach the same loss, a batch of {largest.batch_size:,} is predicted to take "
            f"{largest.updates} times the updates of B = {table.present:,}, and {largest.examples} "
            "times the examples."
        ),
        table=Numbers(
            ("batch size", "peak learning rate", "updates", "interval", "examples", "interval"),
            tuple(rows),
        ),
        note=(
            "This is a prediction of a model from the noise scale of now, at the best learning "
            "rate for each batch. `gradiometer measure batch RUN --of run` predicts for the whole "
            "run."
            + (
                ""
                if run.watched
                else " `gradiometer measure batch` adds the time, measured on this machine."
            )
        ),
    )


def _layers_figure(
    layers: dict[str, Estimate], shares: dict[str, Estimate], batch_size: float
) -> Figure:
    largest = sorted(layers, key=lambda layer: -layers[layer].low)[:MOST_LAYERS]
    drawn = {layer: estimate for layer, estimate in layers.items() if layer in largest}
    known = {layer: estimate for layer, estimate in layers.items() if estimate.tells}
    summary = f"The noise scale of {len(layers)} layers at the newest reading."
    if known:
        low, high = (pick(known, key=lambda layer: known[layer].value) for pick in (min, max))
        if len(known) > 1:
            summary += (
                f" It is smallest in layer {low}, {known[low]}, and largest in layer {high}, "
                f"{known[high]}"
            )
            summary += (
                "."
                if len(known) == len(layers)
                else f", among the {len(known)} whose interval has both ends."
            )
        else:
            summary += f" In layer {low} it is {known[low]}."
    if known_shares := {layer: share for layer, share in shares.items() if share.tells}:
        most = max(known_shares, key=lambda layer: known_shares[layer].value)
        summary += f" Layer {most} has the largest share of the noise, {known_shares[most]}."
    note = (
        f"The {MOST_LAYERS} noisiest layers are drawn; the table has all."
        if len(drawn) < len(layers)
        else ""
    )
    rows = tuple(
        (layer, *cells(scale), *_share_cells(shares.get(layer))) for layer, scale in layers.items()
    )
    return Figure(
        name="noise-by-layer",
        title="Noise scale by layer",
        chart=layers_chart(drawn, batch_size),
        summary=" ".join([summary, *_open_sentences(drawn.values(), "▶")]),
        table=Numbers(
            ("layer", "noise scale, examples", "interval", "share of tr Σ", "interval"), rows
        ),
        note=note,
        single=len(layers) == 1,
    )


def _share_cells(share: Estimate | None) -> tuple[str, str]:
    """Empty cells if the diagnosis has no shares."""
    return ("", "") if share is None else cells(share)


def _open_sentences(estimates: Iterable[Estimate], arrow: str) -> list[str]:
    """Sentences that explain the arrows and question marks of a chart."""
    estimates = list(estimates)
    axis = LogAxis.holding(estimates)
    found = [axis.row(estimate)["open"] for estimate in estimates]
    sentences = []
    if above := found.count(OPEN_ABOVE):
        have = "has" if above == 1 else "have"
        subject = _some(above, len(found))
        sentences.append(
            f"{subject} ({arrow}) {have} no upper end, because the gradient could be zero there."
        )
    if unknown := found.count(UNKNOWN):
        sentences.append(f"{_some(unknown, len(found))} (?) cannot be estimated yet.")
    return sentences


def _some(count: int, total: int) -> str:
    return "It" if total == 1 else f"{count} of {total}"
