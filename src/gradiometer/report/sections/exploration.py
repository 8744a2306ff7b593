"""The section of issue 4, exploration: the temperature of SGD, its sources, and where the heat
goes."""

from collections.abc import Mapping
from dataclasses import replace

from gradiometer.exploration.temperature.thermometer import Temperature
from gradiometer.gauges import labels_of
from gradiometer.measurement.estimate import Estimate
from gradiometer.measurement.finding import Issue
from gradiometer.measurement.reading import Draw
from gradiometer.measurement.uncertainty.arithmetic import transform
from gradiometer.report.charts.exploration_charts import (
    drift_share_chart,
    heat_chart,
    layer_temperatures_chart,
)
from gradiometer.report.charts.marks import Curve
from gradiometer.report.sections.section import (
    Figure,
    Numbers,
    Section,
    by_layer,
    cells,
    change,
    quantity_table,
)
from gradiometer.run.reader import Run
from gradiometer.verdict.diagnosis import Diagnosis

MOST_LAYERS = 40
"""Maximum number of layers in the chart. The table has all of them."""


def exploration_section(run: Run, diagnosis: Diagnosis) -> Section:
    """Issue 4: the heat balance along the run and by layer."""
    lead = (
        "At which temperature does SGD explore? How much noise do its steps add, and where does "
        "this heat go?"
    )
    labels = labels_of(diagnosis.gauges, Issue.EXPLORATION)
    curve = diagnosis.history.get("temperature", ())
    if not curve:
        lead += (
            " The temperature has not been measured yet: add it with `--gauges noise,temperature`."
        )
        return Section(
            "exploration", "Temperature", lead, (), quantity_table(labels, diagnosis.estimates)
        )
    examples = diagnosis.estimates.get("temperature_examples")
    scale, unit = (
        (examples.value, "posterior units, N × loss") if examples is not None else (1.0, "loss")
    )
    history = {name: _scaled(diagnosis.history.get(name, ()), scale) for name in Temperature.labels}
    latest = {
        name: replace(_times(estimate, scale), unit=unit)
        for name, estimate in diagnosis.estimates.items()
        if name in Temperature.labels
        or name.startswith(("temperature/", "temperature_configurational/"))
    }
    figures = [_heat_figure(history, unit, run)]
    if shares := diagnosis.history.get("temperature_drift_share", ()):
        figures.append(_share_figure(shares, history))
    if layers := by_layer(latest, "temperature/"):
        figures.append(
            _layers_figure(layers, by_layer(latest, "temperature_configurational/"), latest, unit)
        )
    table = quantity_table(labels, {**diagnosis.estimates, **latest})
    return Section("exploration", "Temperature", lead, tuple(figures), table)


def _heat_figure(history: Mapping[str, Curve], unit: str, run: Run) -> Figure:
    whole, batches = history["temperature"], history["temperature_minibatch"]
    rows = [
        (f"{step:,}", *cells(heat), *cells(noise), *cells(length))
        for (step, heat), (_, noise), (_, length) in zip(
            whole, batches, history["temperature_step"], strict=True
        )
    ]
    note = (
        "At every step, batch noise adds η tr Σ/(2Bd(1 − μ)) to the temperature; the finite length "
        "of the step adds the rest. In posterior units (N times the units of the loss), the "
        "posterior of the training set is at 1."
    )
    if run.sampling.draw is Draw.RESHUFFLED:
        note += (
            " With reshuffled epochs the noise of an epoch sums to zero, so directions that are "
            "flat enough are colder."
        )
    return Figure(
        name="temperature",
        title="Temperature by source",
        chart=heat_chart({"temperature T": whole, "from batch noise": batches}, unit),
        summary=(
            f"In {unit}, the temperature {change(whole)}; the part from batch noise "
            f"{change(batches)}."
        ),
        table=Numbers(
            (
                "step",
                "T",
                "interval",
                "from batch noise",
                "interval",
                "from step length",
                "interval",
            ),
            tuple(rows),
        ),
        note=note,
    )


def _share_figure(shares: Curve, history: Mapping[str, Curve]) -> Figure:
    rows = [
        (f"{step:,}", *cells(share), *cells(drift), *cells(inside))
        for (step, share), (_, drift), (_, inside) in zip(
            shares,
            history["temperature_drift"],
            history["temperature_configurational"],
            strict=True,
        )
    ]
    return Figure(
        name="heat-balance",
        title="Heat balance",
        chart=drift_share_chart(shares),
        summary=(
            "The share of the heat that moves the parameters away from their earlier position "
            f"{change(shares)}."
        ),
        table=Numbers(
            ("step", "share that drifts", "interval", "drift", "interval", "T_conf", "interval"),
            tuple(rows),
        ),
        note=(
            "The heat either stays in the spread of the parameters, as their temperature T_conf, "
            "or moves them away. At zero they fluctuate around a fixed position, and T is their "
            "temperature; below zero they move back. The earlier position is reset at steps 1, 2, "
            "4, 8, …; until then the share grows if they keep moving away."
        ),
    )


def _layers_figure(
    layers: Mapping[str, Estimate],
    inside: Mapping[str, Estimate],
    latest: Mapping[str, Estimate],
    unit: str,
) -> Figure:
    hottest = sorted(layers, key=lambda layer: -layers[layer].low)[:MOST_LAYERS]
    drawn = {layer: estimate for layer, estimate in layers.items() if layer in hottest}
    summary = f"The temperature of {len(layers)} layers at the newest reading, in {unit}."
    known = {layer: estimate for layer, estimate in layers.items() if estimate.tells}
    if known:
        cold, hot = (pick(known, key=lambda layer: known[layer].value) for pick in (min, max))
        summary += f" It is lowest in {cold}, {known[cold]}, and highest in {hot}, {known[hot]}."
    rows = tuple(
        (layer, *cells(estimate), *(cells(inside[layer]) if layer in inside else ("", "")))
        for layer, estimate in layers.items()
    )
    return Figure(
        name="temperature-by-layer",
        title="Temperature by layer",
        chart=layer_temperatures_chart(drawn, latest["temperature"], unit),
        summary=summary,
        table=Numbers(("layer", "T", "interval", "T_conf", "interval"), rows),
        note=(
            "A single temperature would need the same noise in every direction. T is therefore an "
            "effective temperature; that of a layer is for its parameters only."
        ),
    )


def _scaled(curve: Curve, scale: float) -> Curve:
    return tuple((step, _times(estimate, scale)) for step, estimate in curve)


def _times(estimate: Estimate, scale: float) -> Estimate:
    return transform(estimate, lambda value: scale * value)
