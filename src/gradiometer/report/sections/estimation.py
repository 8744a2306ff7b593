"""The section of issue 1, estimation: noise scale, noise and gradient, what a batch buys, and where the noise sits."""

import math
from collections.abc import Iterable, Mapping, Sequence

from gradiometer.diagnosis import Diagnosis
from gradiometer.estimation.batch_table import BatchTable, batch_sizes
from gradiometer.gauges import labels_of
from gradiometer.measurement.estimate import Estimate
from gradiometer.measurement.finding import Issue
from gradiometer.report.charts.axes import OPEN_ABOVE, UNKNOWN, LogAxis
from gradiometer.report.charts.batch_chart import batch_chart
from gradiometer.report.charts.charts import layers_chart, noise_and_gradient_chart, noise_scale_chart
from gradiometer.report.charts.interval_strip import number
from gradiometer.report.charts.marks import Windows
from gradiometer.report.sections.section import Figure, Numbers, Section, cells, course, numbers_of, quantity_table
from gradiometer.run.reader import Run

MOST_LAYERS = 40
"""Layers drawn; the table holds all of them."""


def estimation_section(run: Run, diagnosis: Diagnosis) -> Section:
    """Issue 1: noise scale, noise and gradient along the run, and by layer."""
    history, latest = diagnosis.history, diagnosis.estimates
    lead = "How accurate is ĝ, the gradient of one batch, as an estimate of the gradient g?"
    table = quantity_table(labels_of(diagnosis.gauges, Issue.ESTIMATION), latest)
    if "noise_scale" not in latest:
        return Section("estimation", "Estimation", f"{lead} The noise has not been measured yet.", (), table)
    figures = []
    windows = history.get("noise_scale", ())
    if windows:
        figures.append(_noise_scale_figure(windows, latest["batch_size"].value))
    variance, norm_squared = history.get("gradient_variance", ()), history.get("gradient_norm_squared", ())
    if variance and norm_squared:
        figures.append(_noise_and_gradient_figure(variance, norm_squared))
    if any(math.isfinite(scale.low) for _, scale in windows):
        present = round(latest["batch_size"].value)
        figures.append(_batch_figure([scale for _, scale in windows], present, run))
    by_layer, shares = _by_layer(latest, "noise_scale/"), _by_layer(latest, "noise_share/")
    if by_layer:
        figures.append(_layers_figure(by_layer, shares, latest["batch_size"].value))
    return Section("estimation", "Estimation", lead, tuple(figures), table)


def _noise_scale_figure(windows: Windows, batch_size: float) -> Figure:
    summary = f"The gradient noise scale {course(windows)}; B is {batch_size:,.0f}."
    return Figure(
        name="noise-scale",
        title="Gradient noise scale",
        chart=noise_scale_chart(windows, batch_size),
        summary=" ".join([summary, *_open_sentences((estimate for _, estimate in windows), "▲")]),
        table=numbers_of(windows, "noise scale, examples"),
        note=(
            f"Each point is one window of measured steps, the band its {windows[0][1].level:.0%} interval by "
            "Fieller's method. Where the noise scale lies above B a larger batch saves updates, where it lies below "
            "it mostly costs examples."
        ),
    )


def _noise_and_gradient_figure(variance: Windows, norm_squared: Windows) -> Figure:
    summary = f"The noise, tr Σ, {course(variance)}. The squared gradient norm, ‖g‖², {course(norm_squared)}."
    below = sum(not estimate.low > 0 for _, estimate in norm_squared)
    if below:
        where = "" if len(norm_squared) == 1 else f" in {below} of {len(norm_squared)} windows"
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
        table=Numbers(("window ends at step", "tr Σ", "interval", "‖g‖²", "interval"), tuple(rows)),
        note="On this axis the distance between the two is the noise scale.",
    )


def _by_layer(latest: Mapping[str, Estimate], prefix: str) -> dict[str, Estimate]:
    return {name.removeprefix(prefix): estimate for name, estimate in latest.items() if name.startswith(prefix)}


def _batch_figure(noise_scales: Sequence[Estimate], present: int, run: Run) -> Figure:
    """Updates and examples at other batch sizes, over the whole path of the run."""
    sizes, learning_rate = batch_sizes(present, run.sampling.examples), run.configuration.learning_rate
    table = BatchTable.of(noise_scales, sizes, present=present, learning_rate=learning_rate)
    rows = [
        (f"{row.batch_size:,}", number(row.learning_rate.value), *cells(row.updates), *cells(row.examples))
        for row in table.rows
    ]
    largest = table.rows[-1]
    return Figure(
        name="what-a-batch-buys",
        title="What a batch buys",
        chart=batch_chart(table),
        summary=(
            f"To the same loss a batch of {largest.batch_size:,} is predicted to take {largest.updates} times the "
            f"updates of B = {table.present:,}, and {largest.examples} times the examples."
        ),
        table=Numbers(("batch size", "learning rate", "updates", "interval", "examples", "interval"), tuple(rows)),
        note=(
            "A model: each window of the run, at the rate that is right for its noise, counts for as many steps of the "
            "other batch as its noise scale says."
            + ("" if run.watched else " `gradiometer batch` adds the time, measured here.")
        ),
    )


def _layers_figure(by_layer: dict[str, Estimate], shares: dict[str, Estimate], batch_size: float) -> Figure:
    largest = sorted(by_layer, key=lambda layer: -by_layer[layer].low)[:MOST_LAYERS]
    drawn = {layer: estimate for layer, estimate in by_layer.items() if layer in largest}
    known = {layer: estimate for layer, estimate in by_layer.items() if estimate.tells}
    summary = f"The noise scale of {len(by_layer)} layers in the latest window."
    if known:
        low, high = (pick(known, key=lambda layer: known[layer].value) for pick in (min, max))
        if len(known) > 1:
            summary += f" It is smallest in layer {low}, {known[low]}, and largest in layer {high}, {known[high]}"
            summary += "." if len(known) == len(by_layer) else f", of the {len(known)} that have both ends."
        else:
            summary += f" In layer {low} it is {known[low]}."
    if known_shares := {layer: share for layer, share in shares.items() if share.tells}:
        most = max(known_shares, key=lambda layer: known_shares[layer].value)
        summary += f" Most of the noise sits in layer {most}, a share of {known_shares[most]}."
    note = f"The {MOST_LAYERS} noisiest layers are drawn; the table holds all." if len(drawn) < len(by_layer) else ""
    rows = tuple((layer, *cells(scale), *_share_cells(shares.get(layer))) for layer, scale in by_layer.items())
    return Figure(
        name="noise-by-layer",
        title="Noise scale by layer",
        chart=layers_chart(drawn, batch_size),
        summary=" ".join([summary, *_open_sentences(drawn.values(), "▶")]),
        table=Numbers(("layer", "noise scale, examples", "interval", "share of tr Σ", "interval"), rows),
        note=note,
    )


def _share_cells(share: Estimate | None) -> tuple[str, str]:
    """Empty for a run that was diagnosed before there were shares."""
    return ("", "") if share is None else cells(share)


def _open_sentences(estimates: Iterable[Estimate], arrow: str) -> list[str]:
    """What the arrows and question marks of a chart say."""
    estimates = list(estimates)
    axis = LogAxis.holding(estimates)
    found = [axis.row(estimate)["open"] for estimate in estimates]
    sentences = []
    if above := found.count(OPEN_ABOVE):
        have = "has" if above == 1 else "have"
        who = _some(above, len(found))
        sentences.append(f"{who} ({arrow}) {have} no upper end: the gradient is not distinguishable from zero there.")
    if unknown := found.count(UNKNOWN):
        sentences.append(f"{_some(unknown, len(found))} (?) cannot be told at all yet.")
    return sentences


def _some(count: int, total: int) -> str:
    return "It" if total == 1 else f"{count} of {total}"
