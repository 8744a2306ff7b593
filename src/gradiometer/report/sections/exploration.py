"""The section of issue 4, exploration: the temperature SGD runs at, what heats it, and what becomes of the heat."""

from collections.abc import Mapping
from dataclasses import replace

from gradiometer.diagnosis import Diagnosis
from gradiometer.exploration.temperature.thermometer import Temperature
from gradiometer.gauges import labels_of
from gradiometer.measurement.estimate import Estimate
from gradiometer.measurement.finding import Issue
from gradiometer.measurement.reading import Draw
from gradiometer.measurement.uncertainty.arithmetic import transformed
from gradiometer.report.charts.exploration_charts import drift_share_chart, heat_chart, layer_temperatures_chart
from gradiometer.report.charts.marks import Windows
from gradiometer.report.sections.section import Figure, Numbers, Section, cells, course, quantity_table
from gradiometer.run.reader import Run

MOST_LAYERS = 40
"""Layers drawn; the table holds all of them."""


def exploration_section(run: Run, diagnosis: Diagnosis) -> Section:
    """Issue 4: the heat balance along the run and by layer."""
    lead = "At what temperature does SGD explore: how much noise do its steps put in, and what becomes of it?"
    labels = labels_of(diagnosis.gauges, Issue.EXPLORATION)
    windows = diagnosis.history.get("temperature", ())
    if not windows:
        lead += " Nothing has been measured yet: `--gauges noise,temperature` reads the thermometer at measured steps."
        return Section("exploration", "Exploration", lead, (), quantity_table(labels, diagnosis.estimates))
    examples = diagnosis.estimates.get("temperature_examples")
    scale, unit = (examples.value, "posterior units, N × loss") if examples is not None else (1.0, "loss")
    history = {name: _scaled(diagnosis.history.get(name, ()), scale) for name in Temperature.labels}
    latest = {
        name: replace(_times(estimate, scale), unit=unit)
        for name, estimate in diagnosis.estimates.items()
        if name in Temperature.labels or name.startswith(("temperature/", "temperature_configurational/"))
    }
    figures = [_heat_figure(history, unit, run)]
    if shares := diagnosis.history.get("temperature_drift_share", ()):
        figures.append(_share_figure(shares, history))
    if layers := _of_layers(latest, "temperature/"):
        figures.append(_layers_figure(layers, _of_layers(latest, "temperature_configurational/"), latest, unit))
    table = quantity_table(labels, {**diagnosis.estimates, **latest})
    return Section("exploration", "Exploration", lead, tuple(figures), table)


def _heat_figure(history: Mapping[str, Windows], unit: str, run: Run) -> Figure:
    whole, batches = history["temperature"], history["temperature_minibatch"]
    rows = [
        (f"{step:,}", *cells(heat), *cells(noise), *cells(length))
        for (step, heat), (_, noise), (_, length) in zip(whole, batches, history["temperature_step"], strict=True)
    ]
    note = (
        "The noise of the batches heats at every step by η tr Σ/(2Bd(1 − μ)), and steps of finite length by the rest. "
        "In posterior units, N times those of the loss, the posterior of the training set is at 1."
    )
    if run.sampling.draw is Draw.RESHUFFLED:
        note += " Epochs in random order undo their own noise: directions too flat to forget it in an epoch are colder."
    return Figure(
        name="temperature",
        title="The temperature, and what heats",
        chart=heat_chart({"temperature T": whole, "of the batches": batches}, unit),
        summary=f"In {unit}, the temperature {course(whole)}; the part of the batches {course(batches)}.",
        table=Numbers(
            ("window ends at step", "T", "interval", "of the batches", "interval", "of step length", "interval"),
            tuple(rows),
        ),
        note=note,
    )


def _share_figure(shares: Windows, history: Mapping[str, Windows]) -> Figure:
    rows = [
        (f"{step:,}", *cells(share), *cells(drift), *cells(inside))
        for (step, share), (_, drift), (_, inside) in zip(
            shares, history["temperature_drift"], history["temperature_configurational"], strict=True
        )
    ]
    return Figure(
        name="heat-balance",
        title="What becomes of the heat",
        chart=drift_share_chart(shares),
        summary=f"The share of the heat that carries the parameters away from where they were {course(shares)}.",
        table=Numbers(
            ("window ends at step", "share that drifts", "interval", "drift", "interval", "T_conf", "interval"),
            tuple(rows),
        ),
        note=(
            "What is put in either stays in the spread of the parameters, as their temperature T_conf, or carries them "
            "away. At zero they have come to rest about a place, and T is the temperature there; below zero they move "
            "back. Where they were is renewed at steps 1, 2, 4, 8, …: while they go one way the share grows until then."
        ),
    )


def _layers_figure(
    layers: Mapping[str, Estimate], inside: Mapping[str, Estimate], latest: Mapping[str, Estimate], unit: str
) -> Figure:
    hottest = sorted(layers, key=lambda layer: -layers[layer].low)[:MOST_LAYERS]
    drawn = {layer: estimate for layer, estimate in layers.items() if layer in hottest}
    summary = f"The temperature of {len(layers)} layers in the latest window, in {unit}."
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
            "One temperature for all would need the same noise in every direction: T is effective, and a layer's is "
            "that of its own parameters."
        ),
    )


def _of_layers(latest: Mapping[str, Estimate], prefix: str) -> dict[str, Estimate]:
    return {name.removeprefix(prefix): estimate for name, estimate in latest.items() if name.startswith(prefix)}


def _scaled(windows: Windows, scale: float) -> Windows:
    return tuple((step, _times(estimate, scale)) for step, estimate in windows)


def _times(estimate: Estimate, scale: float) -> Estimate:
    return transformed(estimate, lambda value: scale * value)
