"""The section of issue 2, drift: batch sharpness and sharpness along the run, the edge of
stability, the density."""

import math
from collections.abc import Iterable
from itertools import chain

from gradiometer.drift.batch_sharpness import BatchSharpness, PreconditionedSharpness
from gradiometer.drift.curvature_survey import Survey
from gradiometer.drift.stability import MomentumRule, edge_finding, no_edge_finding, stability_limit
from gradiometer.gauges import labels_of
from gradiometer.measurement import Estimate, Issue, significant
from gradiometer.measurement.optimizer.groups import UNKNOWN_OPTIMIZER, Group
from gradiometer.measurement.optimizer.hyperparameters import Hyperparameters
from gradiometer.report.charts.axes import Curve
from gradiometer.report.charts.charts import density_chart, sharpness_chart
from gradiometer.report.charts.theme import POINTS
from gradiometer.report.sections.questions import Answer
from gradiometer.report.sections.section import (
    Figure,
    Numbers,
    Section,
    cells,
    change,
    quantity_table,
)
from gradiometer.run.artifacts import load_artifacts
from gradiometer.run.reader import Run
from gradiometer.verdict.diagnosis import Diagnosis
from gradiometer.verdict.words.drift import no_edge

TITLE = "Curvature and change of the gradient"


def drift_section(run: Run, diagnosis: Diagnosis) -> Section:
    """Issue 2: batch sharpness and sharpness along the run, the density, and the latest numbers."""
    history, surveys = diagnosis.history, load_artifacts(run, Survey)
    lead = (
        "How does the gradient change as Φ moves, and is the learning rate small enough for the "
        "curvature?"
    )
    labels = {**labels_of(diagnosis.gauges, Issue.DRIFT), **Survey.labels}
    is_of_adam = PreconditionedSharpness.quantities[0] in history
    kind = PreconditionedSharpness if is_of_adam else BatchSharpness
    batch, edge = (history.get(quantity, ()) for quantity in kind.quantities)
    if not batch and not surveys:
        how = (
            f": {run.call('sharpness', 'train')} measures it" if run.has_program_with_model else ""
        )
        lead += f" The sharpness has not been measured yet{how}."
        return Section("drift", TITLE, lead, (), quantity_table(labels, diagnosis.estimates))
    # λ_max has another unit than a sharpness in the geometry of Adam, and no edge there
    beside = () if is_of_adam else surveys
    is_known = beside or any(estimate.tells for _, estimate in batch)
    name = "preconditioned batch sharpness" if is_of_adam else "batch sharpness"
    figures = [_sharpness_figure(name, batch, beside, edge, run)] if is_known else []
    if surveys:
        figures.append(density_figure(surveys[-1], _edge_at_peak(run)))
    estimates = {**diagnosis.estimates, **(surveys[-1].estimates if surveys else {})}
    answers: tuple[Answer, ...] = ()
    if surveys:
        # The finding of the latest survey is about the learning rate at that step, or about the
        # largest one if the schedule has ended, which leaves the edge far away.
        survey, settings = surveys[-1], _settings(run)
        group, peak = _fastest(settings.at(survey.step)), _fastest_of_all(settings)
        if not group.learning_rate > 1e-3 * peak.learning_rate:
            group = peak
        finding = no_edge_finding(survey.sharpness, survey.step, settings.names)
        if math.isfinite(_edge(group)):
            finding = edge_finding(
                survey.sharpness,
                group.learning_rate,
                MomentumRule.of(group),
                weight_decay=group.weight_decay,
            )
        answers = (Answer(finding, finding.numbers),)
    return Section("drift", TITLE, lead, tuple(figures), quantity_table(labels, estimates), answers)


def density_figure(survey: Survey, edge: tuple[str, float] | None) -> Figure:
    """The spectral density of a survey, with λ_max and the edge.

    Args:
        survey: The curvature at one step.
        edge: Formula and value of the edge; None if there is no learning rate.
    """
    grid = survey.density.grid
    value, low, high = survey.density.at(grid)
    marked = {f"λ_max = {significant(survey.sharpness.value)}": survey.sharpness.value}
    if edge is not None and edge[1] <= 2 * grid[-1]:
        marked[f"{edge[0]} = {significant(edge[1])}"] = edge[1]
    columns = (
        map(significant, column[:: POINTS.density_stride].tolist())
        for column in (grid, value, low, high)
    )
    rows = tuple(
        (at, middle, f"[{one}, {other}]") for at, middle, one, other in zip(*columns, strict=True)
    )
    negative = survey.negative_share
    return Figure(
        name="density",
        title=f"Density of curvatures at step {survey.step:,}",
        chart=density_chart(survey.density, marked),
        summary=(
            f"Hessian of {survey.what}: the largest eigenvalue is {survey.sharpness}, the smallest "
            f"{survey.smallest[0]}, the trace {survey.trace}. The share of the "
            f"{survey.dimension:,} directions that curve down is {negative} ({negative.method})."
        ),
        table=Numbers(("curvature", "density", "interval"), rows),
        note=(
            f"The density is smoothed with width {significant(survey.density.width, 2)}. The band "
            f"is the {survey.density.level:.0%} interval at each curvature, over "
            f"{len(survey.density.nodes)} random vectors. The scale is logarithmic, because nearly "
            "all directions are flat."
        ),
    )


def _sharpness_figure(
    name: str, batch: Curve, surveys: tuple[Survey, ...], edge: Curve, run: Run
) -> Figure:
    full = tuple((survey.step, survey.sharpness) for survey in surveys)
    formula, limit = _edge_at_peak(run)
    if not edge and math.isfinite(limit):
        edge = [(step, Estimate.exact(limit)) for step in sorted({0, *(step for step, _ in full)})]
    lowest, moving = _moving_edge(run)
    parts = []
    if batch:
        parts.append(f"The {name} {change(batch)}.")
    if full:
        parts.append(f"The sharpness λ_max of {surveys[-1].what} {change(full)}.")
    if moving:
        parts.append(
            f"The edge {formula} is {significant(lowest)} at the largest η, and rises as η falls."
        )
    elif edge:
        parts.append(f"The edge {formula} is {significant(edge[-1][1].value)}.")
    else:
        parts.append(no_edge(_settings(run).names))
    quantities = {name: batch, "sharpness λ_max": full, f"edge {formula}": edge}
    rows = [
        (f"{step:,}", quantity, *cells(estimate))
        for quantity, curve in quantities.items()
        for step, estimate in curve
    ]
    if edge:  # drawn from the start to the current step
        edge = ((0, edge[0][1]), *edge, (max(run.steps, edge[-1][0]), edge[-1][1]))
    return Figure(
        name="sharpness",
        title="Sharpness and the edge of stability",
        chart=sharpness_chart(batch, full, moving or edge, f"edge {formula}"),
        summary=" ".join(parts),
        table=Numbers(("step", "quantity", "estimate", "interval"), tuple(rows)),
        note=(
            "With small batches, the batch sharpness rises to the edge and stays there. The "
            "sharpness of the full loss stays lower; the smaller the batch, the lower it is."
        ),
        single=sum(estimate.tells for _, estimate in (*batch, *full)) <= 1,
    )


def _settings(run: Run) -> Hyperparameters:
    """The settings of the optimizer along the run. Without a record they are those of an unknown
    one."""
    return run.hyperparameters or Hyperparameters(
        (0,), ((Group(UNKNOWN_OPTIMIZER, "other", 0.0),),)
    )


def _fastest(groups: Iterable[Group]) -> Group:
    """The group with the largest η, whose edge is the lowest."""
    return max(groups, key=lambda group: group.learning_rate)


def _fastest_of_all(settings: Hyperparameters) -> Group:
    """The group of the present optimizer at the largest η of the run."""
    groups = chain.from_iterable(settings.groups)
    return _fastest(group for group in groups if group.optimizer in settings.names)


def _edge(group: Group) -> float:
    """The edge of one group; infinite for η = 0 and for an optimizer whose edge is not known."""
    if group.family != "sgd" or not group.learning_rate > 0:
        return math.inf
    return stability_limit(group.learning_rate, MomentumRule.of(group))


def _edge_at_peak(run: Run) -> tuple[str, float]:
    """Formula and value of the edge at the largest η of the run."""
    group = _fastest_of_all(_settings(run))
    return MomentumRule.of(group).formula, _edge(group)


def _moving_edge(run: Run) -> tuple[float, Curve]:
    """The lowest edge so far, and the edge along the run; empty if constant.

    Above 20 times the lowest, the edge is infinite: η is nearly zero there, and the axis would be
    the edge's alone.
    """
    settings = _settings(run)
    begun = [step for step in settings.steps if step <= run.steps]
    limits = [_edge(_fastest(groups)) for groups in settings.groups[: len(begun)]]
    lowest = min(limits, default=math.inf)
    if not math.isfinite(lowest) or not max(limits) > 1.01 * lowest:
        return math.nan, ()
    stride = -(-len(begun) // POINTS.edge)
    kept = [limit if limit <= 20 * lowest else math.inf for limit in limits[::stride]]
    # each edge holds until the next one begins
    ends = [0, *begun[stride::stride], max(run.steps, begun[-1])]
    edges = [Estimate.exact(limit) for limit in (kept[0], *kept)]
    return lowest, tuple(zip(ends, edges, strict=True))
