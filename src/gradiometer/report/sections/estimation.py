"""The section of issue 1, estimation: noise scale, noise and gradient, the effect of the batch
size, and layers."""

import math
from collections.abc import Iterable, Mapping

from gradiometer.estimation.batch_table import BatchTable, batch_sizes
from gradiometer.gauges import labels_of
from gradiometer.loop.changes.alternative import BatchSize
from gradiometer.loop.changes.text import alternative_of
from gradiometer.measurement import Estimate, Issue
from gradiometer.report.charts.axes import OPEN_ABOVE, UNKNOWN, Curve, LogAxis
from gradiometer.report.charts.charts import (
    batch_chart,
    curves_chart,
    layers_chart,
    noise_scale_chart,
)
from gradiometer.report.charts.interval_strip import number
from gradiometer.report.charts.theme import LISTS
from gradiometer.report.sections.section import (
    Figure,
    Numbers,
    Section,
    by_layer,
    cells,
    cells_of,
    change,
    extremes,
    largest,
    numbers_along,
    numbers_of,
    quantity_table,
)
from gradiometer.run.reader import Run
from gradiometer.verdict.diagnosis import Diagnosis


def estimation_section(run: Run, diagnosis: Diagnosis) -> Section:
    """Issue 1: noise scale, noise and gradient along the run, and by layer."""
    latest = diagnosis.estimates
    title = "Noise of the gradient"
    lead = "How accurate is ĝ, the gradient of one batch, as an estimate of the gradient g?"
    table = quantity_table(labels_of(diagnosis.gauges, Issue.ESTIMATION), latest)
    if "noise_scale" not in latest:
        lead += " The noise has not been measured yet."
        return Section("estimation", title, lead, (), table)
    batch_size = latest["batch_size"].value
    curve, variance, norm_squared = (
        diagnosis.history.get(name, ())
        for name in ("noise_scale", "gradient_variance", "gradient_norm_squared")
    )
    figures = []
    if curve:
        figures.append(_noise_scale_figure(curve, batch_size))
    if variance and norm_squared:
        figures.append(_noise_and_gradient_figure(variance, norm_squared))
    settings = run.hyperparameters
    is_known = math.isfinite(latest["noise_scale"].low)
    if settings is not None and settings.family == "sgd" and is_known:
        rate = max(settings.peaks)
        figures.append(
            _batch_figure(latest["noise_scale"], round(batch_size), rate, run, diagnosis)
        )
    layers = by_layer(latest, "noise_scale/")
    if layers:
        figures.append(_layers_figure(layers, by_layer(latest, "noise_share/"), batch_size))
    return Section("estimation", title, lead, tuple(figures), table)


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
            f"{curve[0][1].level:.0%} interval. Above B, a larger batch saves updates; below B, it "
            "mostly costs examples."
        ),
    )


def _noise_and_gradient_figure(variance: Curve, norm_squared: Curve) -> Figure:
    step, newest = norm_squared[-1]
    # an estimate of a square that may be zero is often negative
    size = f"is {newest}" if newest.low > 0 else "may be zero"
    summary = (
        f"The noise, tr Σ, {change(variance)}. The squared gradient norm, ‖g‖², {size} at step "
        f"{step:,}."
    )
    below = sum(not estimate.low > 0 for _, estimate in norm_squared)
    if below:
        where = "" if len(norm_squared) == 1 else f" in {below} of {len(norm_squared)} points"
        summary += f" The interval of ‖g‖² reaches zero (▼){where}."
    curves = {"tr Σ, gradient variance": variance, "‖g‖², squared gradient norm": norm_squared}
    return Figure(
        name="noise-and-gradient",
        title="Noise and gradient",
        chart=curves_chart(curves, variance[0][1].unit),
        summary=summary,
        table=numbers_along({"tr Σ": variance, "‖g‖²": norm_squared}),
        note="On this logarithmic axis, the distance between the two is the noise scale.",
        single=len(variance) == 1,
    )


def _proposed_batch(present: int, diagnosis: Diagnosis) -> int | None:
    """The batch size that a finding advises; None if none does."""
    changes = [
        change
        for finding in diagnosis.findings
        for text in finding.cure
        if isinstance(change := alternative_of(text), BatchSize)
    ]
    return round(changes[0].factor * present) if changes else None


def _batch_figure(
    noise_scale: Estimate, present: int, rate: float, run: Run, diagnosis: Diagnosis
) -> Figure:
    """Updates against examples at other batch sizes, with the noise scale of now. The forecast is
    one of SGD."""
    proposed = _proposed_batch(present, diagnosis)
    sizes = {*batch_sizes(present, run.sampling.examples)}
    table = BatchTable.of(
        [noise_scale],
        sorted(sizes if proposed is None else {*sizes, proposed}),
        present=present,
        learning_rate=rate,
    )
    rows = tuple(
        (
            f"{row.batch_size:,}",
            number(row.learning_rate.value),
            *cells(row.updates),
            *cells(row.examples),
        )
        for row in table.rows
    )
    last = table.rows[-1]
    note = (
        "A model predicts this from the noise scale of now, at the best learning rate for each "
        "batch. For the whole run: `gradiometer measure batch RUN --of run`."
    )
    if not run.watched:
        note += " It also measures the time."
    return Figure(
        name="batch-size",
        title="Batch size: updates against examples",
        chart=batch_chart(table, proposed),
        summary=(
            f"To reach the same loss, a batch of {last.batch_size:,} is predicted to take "
            f"{last.updates} times the updates of B = {table.present:,}, and {last.examples} "
            "times the examples."
        ),
        table=Numbers(
            ("batch size", "peak learning rate", "updates", "interval", "examples", "interval"),
            rows,
        ),
        note=note,
    )


def _layers_figure(
    layers: Mapping[str, Estimate], shares: Mapping[str, Estimate], batch_size: float
) -> Figure:
    drawn = largest(layers)
    rows = tuple(
        (layer, *cells(scale), *cells_of(shares, layer)) for layer, scale in layers.items()
    )
    note = f"The {LISTS.layers} noisiest layers are drawn; the table has all."
    sentences = [f"The noise scale of {len(layers)} layers at the newest reading."]
    known = {layer: estimate for layer, estimate in layers.items() if estimate.tells}
    known_shares = {layer: share for layer, share in shares.items() if share.tells}
    if len(known) == 1:
        sentences += [f"In layer {layer} it is {scale}." for layer, scale in known.items()]
    elif known:
        low, high = extremes(known)
        among = f", among the {len(known)} whose interval has both ends"
        sentences.append(
            f"It is smallest in layer {low}, {known[low]}, and largest in layer {high}, "
            f"{known[high]}{among if len(known) < len(layers) else ''}."
        )
    if known_shares:
        _, most = extremes(known_shares)
        sentences.append(f"Layer {most} has the largest share of the noise, {known_shares[most]}.")
    sentences += _open_sentences(drawn.values(), "▶")
    return Figure(
        name="noise-by-layer",
        title="Noise scale by layer",
        chart=layers_chart(drawn, Estimate.exact(batch_size), f"B = {batch_size:,.0f}", "examples"),
        summary=" ".join(sentences),
        table=Numbers(
            ("layer", "noise scale, examples", "interval", "share of tr Σ", "interval"), rows
        ),
        note=note if len(drawn) < len(layers) else "",
        single=len(layers) == 1,
    )


def _open_sentences(estimates: Iterable[Estimate], arrow: str) -> list[str]:
    """Sentences that explain the arrows and question marks of a chart."""
    estimates = list(estimates)
    axis = LogAxis.holding(estimates)
    kinds = [axis.row(estimate)["open"] for estimate in estimates]
    above, unknown = kinds.count(OPEN_ABOVE), kinds.count(UNKNOWN)

    def some(count: int) -> str:
        return "It" if len(kinds) == 1 else f"{count} of {len(kinds)}"

    sentences = []
    if above:
        have = "has" if above == 1 else "have"
        sentences.append(
            f"{some(above)} ({arrow}) {have} no upper end, because the gradient could be zero "
            "there."
        )
    if unknown:
        sentences.append(f"{some(unknown)} (?) cannot be estimated yet.")
    return sentences
