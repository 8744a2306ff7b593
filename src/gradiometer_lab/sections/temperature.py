"""The section of issue 4, exploration: the temperature of SGD, its sources, and where the heat
goes."""

from collections.abc import Mapping
from dataclasses import replace

from gradiometer.gauges import labels_of
from gradiometer.measurement import Draw, Estimate, Issue, significant
from gradiometer.measurement.uncertainty.arithmetic import transform
from gradiometer.report.charts.axes import Curve
from gradiometer.report.charts.charts import curves_chart, layers_chart
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
    quantity_table,
)
from gradiometer.run.reader import Run
from gradiometer.verdict.diagnosis import Diagnosis
from gradiometer_lab.temperature.thermometer import Temperature

METHOD = (
    "Temperatures are means over the readings, with the lecture's formula T = η tr Σ/(2 d B). "
    "Formulas: docs/explanation/exploration.md."
)


def exploration_section(run: Run, diagnosis: Diagnosis) -> Section:
    """Issue 4: the heat balance along the run and by layer."""
    estimates, history = diagnosis.estimates, diagnosis.history
    lead = (
        "At which temperature does SGD explore? How much noise do its steps add, and where does "
        "this heat go?"
    )
    labels = labels_of(diagnosis.gauges, Issue.EXPLORATION)
    if not history.get("temperature"):
        lead += (
            " The temperature has not been measured yet: add it with `--gauges noise,temperature`."
        )
        return _section(lead, (), quantity_table(labels, estimates))
    scale, unit = 1.0, "loss"
    if "temperature_examples" in estimates:
        scale = estimates["temperature_examples"].value
        unit = "posterior units, N × loss"

    def scaled(estimate: Estimate) -> Estimate:
        return transform(estimate, lambda value: scale * value)

    curves: dict[str, Curve] = {
        name: [(step, scaled(estimate)) for step, estimate in history.get(name, ())]
        for name in Temperature.labels
    }
    by_name = ("temperature/", "temperature_configurational/")
    latest = {
        name: replace(scaled(estimate), unit=unit)
        for name, estimate in estimates.items()
        if name in Temperature.labels or name.startswith(by_name)
    }
    figures = [_heat_figure(curves, unit, run)]
    shares = history.get("temperature_drift_share", ())
    if shares:
        figure = Figure(
            name="heat-balance",
            title="Heat balance",
            chart=curves_chart(
                {"share that drifts": shares},
                "share of the heat",
                "linear",
                "~%",
                at=(0.0, "at rest"),
            ),
            summary=(
                "The share of the heat that moves the parameters away from their earlier position "
                f"{change(shares)}."
            ),
            table=numbers_along(
                {
                    "share that drifts": shares,
                    "drift": curves["temperature_drift"],
                    "T_conf": curves["temperature_configurational"],
                }
            ),
            note=(
                "The heat either stays in the spread of the parameters, as their temperature "
                "T_conf, or moves them away. At zero they fluctuate around a fixed position, and T "
                "is their temperature; below zero they move back. The earlier position is reset at "
                "steps 1, 2, 4, 8, …; until then the share grows if they keep moving away."
            ),
        )
        figures.append(figure)
    layers, inside = (by_layer(latest, prefix) for prefix in by_name)
    if layers:
        figures.append(_layers_figure(layers, inside, latest["temperature"], unit))
    table = quantity_table(labels, {**estimates, **latest})
    return _section(lead, tuple(figures), table)


def _section(lead: str, figures: tuple[Figure, ...], table: Numbers | None) -> Section:
    return Section(
        "exploration", "Temperature", lead, figures, table, method=METHOD, issue=Issue.EXPLORATION
    )


def _heat_figure(curves: Mapping[str, Curve], unit: str, run: Run) -> Figure:
    whole, batches = curves["temperature"], curves["temperature_minibatch"]
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
        chart=curves_chart({"temperature T": whole, "from batch noise": batches}, unit),
        summary=(
            f"In {unit}, the temperature {change(whole)}; the part from batch noise "
            f"{change(batches)}."
        ),
        table=numbers_along(
            {
                "T": whole,
                "from batch noise": batches,
                "from step length": curves["temperature_step"],
            }
        ),
        note=note,
    )


def _layers_figure(
    layers: Mapping[str, Estimate], inside: Mapping[str, Estimate], whole: Estimate, unit: str
) -> Figure:
    summary = f"The temperature of {len(layers)} layers at the newest reading, in {unit}."
    known = {layer: estimate for layer, estimate in layers.items() if estimate.tells}
    if known:
        cold, hot = extremes(known)
        summary += f" It is lowest in {cold}, {known[cold]}, and highest in {hot}, {known[hot]}."
    rows = tuple((layer, *cells(heat), *cells_of(inside, layer)) for layer, heat in layers.items())
    return Figure(
        name="temperature-by-layer",
        title="Temperature by layer",
        chart=layers_chart(largest(layers), whole, f"all {significant(whole.value, 2)}", unit),
        summary=summary,
        table=Numbers(("layer", "T", "interval", "T_conf", "interval"), rows),
        note=(
            "A single temperature would need the same noise in every direction. T is therefore an "
            "effective temperature; that of a layer is for its parameters only."
        ),
    )
