"""The section of issue 1, estimation: noise scale, noise and signal along the run, and by layer."""

from collections.abc import Iterable, Mapping

from gradiometer.diagnosis import Diagnosis
from gradiometer.measurement.reading import Estimate
from gradiometer.report.axes import OPEN_ABOVE, UNKNOWN, LogAxis
from gradiometer.report.charts import layers_chart, noise_scale_chart, signal_and_noise_chart
from gradiometer.report.marks import Windows
from gradiometer.report.section import QUANTITIES, Figure, Numbers, Section, cells, course, numbers_of
from gradiometer.run.reader import Run

MOST_LAYERS = 40
"""Layers drawn; the table holds all of them."""

OF_ESTIMATION = ("noise_scale", "gradient_variance", "gradient_norm_squared", "signal_to_noise", "batch_size")
"""What the table of the latest window holds, in this order."""


def estimation_section(run: Run, diagnosis: Diagnosis) -> Section:
    """Issue 1: noise scale, noise and signal along the run, and by layer."""
    history, latest = diagnosis.history, diagnosis.estimates
    lead = "How accurate is ĝ, the gradient of one batch, as an estimate of the gradient g?"
    if "noise_scale" not in latest:
        return Section("estimation", "Estimation", f"{lead} Nothing has been measured yet.", ())
    figures = []
    if windows := history.get("noise_scale", ()):
        figures.append(_noise_scale_figure(windows, latest["batch_size"].value))
    variance, signal = history.get("gradient_variance", ()), history.get("gradient_norm_squared", ())
    if variance and signal:
        figures.append(_signal_and_noise_figure(variance, signal))
    by_layer = {
        name.removeprefix("noise_scale/"): estimate
        for name, estimate in latest.items()
        if name.startswith("noise_scale/")
    }
    if by_layer:
        figures.append(_layers_figure(by_layer, latest["batch_size"].value))
    return Section("estimation", "Estimation", lead, tuple(figures), _latest_table(latest))


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


def _signal_and_noise_figure(variance: Windows, signal: Windows) -> Figure:
    summary = f"The noise, tr Σ, {course(variance)}. The signal, ‖g‖², {course(signal)}."
    below = sum(not estimate.low > 0 for _, estimate in signal)
    if below:
        where = "" if len(signal) == 1 else f" in {below} of {len(signal)} windows"
        summary += f" The interval of ‖g‖² reaches zero (▼){where}."
    rows = [
        (f"{step:,}", *cells(noise), *cells(norm)) for (step, noise), (_, norm) in zip(variance, signal, strict=True)
    ]
    return Figure(
        name="signal-and-noise",
        title="Noise and signal",
        chart=signal_and_noise_chart(variance, signal, variance[0][1].unit),
        summary=summary,
        table=Numbers(("window ends at step", "tr Σ", "interval", "‖g‖²", "interval"), tuple(rows)),
        note="On this axis the distance between the two is the noise scale.",
    )


def _layers_figure(by_layer: dict[str, Estimate], batch_size: float) -> Figure:
    largest = sorted(by_layer, key=lambda layer: -by_layer[layer].low)[:MOST_LAYERS]
    drawn = {layer: estimate for layer, estimate in by_layer.items() if layer in largest}
    known = {layer: estimate for layer, estimate in by_layer.items() if estimate.tells}
    summary = f"The noise scale of {len(by_layer)} layers in the latest window."
    if known:
        low, high = (pick(known, key=lambda layer: known[layer].value) for pick in (min, max))
        summary += f" It is smallest in {low}, {known[low]}, and largest in {high}, {known[high]}."
    note = f"The {MOST_LAYERS} noisiest layers are drawn; the table holds all." if len(drawn) < len(by_layer) else ""
    rows = tuple((layer, *cells(estimate)) for layer, estimate in by_layer.items())
    return Figure(
        name="noise-by-layer",
        title="Noise scale by layer",
        chart=layers_chart(drawn, batch_size),
        summary=" ".join([summary, *_open_sentences(drawn.values(), "▶")]),
        table=Numbers(("layer", "noise scale, examples", "interval"), rows),
        note=note,
    )


def _latest_table(latest: Mapping[str, Estimate]) -> Numbers:
    rows = [
        (
            QUANTITIES.get(name, name.replace("_", " ")),
            *cells(estimate),
            estimate.unit,
            "" if estimate.method == "exact" else f"{estimate.level:.0%}",
            f"{estimate.samples:,}" if estimate.samples else "",
            estimate.method,
        )
        for name in OF_ESTIMATION
        if (estimate := latest.get(name)) is not None
    ]
    columns = ("quantity", "estimate", "interval", "unit", "level", "readings", "method")
    return Numbers(columns, tuple(rows))


def _open_sentences(estimates: Iterable[Estimate], arrow: str) -> list[str]:
    """What the arrows and question marks of a chart say."""
    estimates = list(estimates)
    axis = LogAxis.holding(estimates)
    found = [axis.row(estimate)["open"] for estimate in estimates]
    sentences = []
    if above := found.count(OPEN_ABOVE):
        have = "has" if above == 1 else "have"
        who = _some(above, len(found))
        sentences.append(f"{who} ({arrow}) {have} no upper end: the signal is not distinguishable from zero there.")
    if unknown := found.count(UNKNOWN):
        sentences.append(f"{_some(unknown, len(found))} (?) cannot be told at all yet.")
    return sentences


def _some(count: int, total: int) -> str:
    return "It" if total == 1 else f"{count} of {total}"
