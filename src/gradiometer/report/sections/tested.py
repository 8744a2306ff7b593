"""The figure of a test: the branch with the change beside the one without it, and below them their
paired difference with its band."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from gradiometer.loop.branch import BranchResult
from gradiometer.loop.branches import label_of
from gradiometer.loop.comparison.effects import Effect
from gradiometer.loop.recorded.record import ForkRecord, forks_of
from gradiometer.measurement.estimate import Estimate, counted, significant
from gradiometer.measurement.finding import Finding
from gradiometer.measurement.uncertainty.differences import mean_of_few
from gradiometer.report.charts.axes import Curve
from gradiometer.report.charts.blocks import blocks
from gradiometer.report.charts.charts import branch_difference_chart, tested_chart
from gradiometer.report.charts.theme import POINTS
from gradiometer.report.sections.section import Figure, Numbers, cells
from gradiometer.run.reader import Run

AS_IT_IS = "unchanged"
"""The baseline in the legend of the figure."""

CONTEXT = 5 * POINTS.shortest_block
"""Fewest steps of the run that are drawn before the copies."""


def figures_of_trial(run: Run, finding: Finding) -> tuple[Figure, ...]:
    """The losses of both branches of the newest test of a finding, and their difference; empty
    without a test that has curves.

    Args:
        run: The run, with the folder of the fork.
        finding: The finding whose change was tested.
    """
    results = () if finding.trial is None else finding.trial.results
    for result in results:
        record = next((each for each in forks_of(run) if each.name == result["fork"]), None)
        figures = () if record is None else _figures(run, record, result["effect"])
        if figures:
            return figures
    return ()


def _figures(run: Run, record: ForkRecord, effect: Effect) -> tuple[Figure, ...]:
    fork = record.fork
    names = {AS_IT_IS: fork.names[0], effect.alternative: effect.alternative}
    by_name = {label: _by_replicate(fork.of(name)) for label, name in names.items()}
    pairs = sorted(set.intersection(*(set(found) for found in by_name.values())))
    if not pairs:
        return ()
    places = sorted(
        set.intersection(*(set(curve) for found in by_name.values() for curve in found.values()))
    )
    if len(places) < 2:
        return ()
    batch = fork.horizon / max(1, *(one.updates for one in fork.of(fork.names[0])))
    steps = fork.step + np.array(places) / batch
    losses = {
        label: np.array([[found[pair][place] for place in places] for pair in pairs])
        for label, found in by_name.items()
    }
    # the bands of the losses have the noise that both branches share: that of the difference counts
    curves = {
        label: [(step, Estimate.exact(loss.value)) for step, loss in _curve(steps, values)]
        for label, values in losses.items()
    }
    difference = _curve(steps, losses[effect.alternative] - losses[AS_IT_IS])
    before = _before(run, fork.step, round(float(steps[-1])) - fork.step)
    span = (before[0][0] if before else fork.step, round(float(steps[-1])))
    label = label_of(effect.readout)
    ends = {name: _end(fork.of(alternative), effect.readout) for name, alternative in names.items()}
    is_loss = "loss" in label and effect.readout != "train_loss"
    shown_ends = {name: loss for name, (_, loss) in ends.items()} if is_loss else {}
    summary = _summary(record, effect, ends)
    numbers = Numbers(
        ("step", AS_IT_IS, effect.alternative, "difference", "interval"),
        tuple(
            (
                f"{step:,}",
                significant(curves[AS_IT_IS][place][1].value),
                significant(curves[effect.alternative][place][1].value),
                *cells(each),
            )
            for place, (step, each) in enumerate(difference)
        ),
    )
    note = f"The lower chart is {effect.alternative} minus {AS_IT_IS}"
    if len(pairs) > 1:
        note += f", with the 90 % band over {len(pairs)} data orders"
    if effect.estimate.tells:
        note += f"; its last point is the difference in {label} at the end"
    if is_loss:
        note += f". Single points above are the {label} at the end"
    return (
        Figure(
            name="tested",
            title="The change on copies of this run",
            chart=tested_chart(before, curves, fork.step, shown_ends, span),
            summary=summary,
            table=numbers,
            note=note + ".",
        ),
        Figure(
            name="tested-difference",
            title="The difference",
            chart=branch_difference_chart(
                difference,
                effect.estimate if effect.lower_is_better and effect.estimate.tells else None,
                span,
            ),
            summary=summary,
            table=numbers,
        ),
    )


def _by_replicate(results: Sequence[BranchResult]) -> Mapping[int, Mapping[int, float]]:
    """Loss by examples so far, for each replicate that did not diverge."""
    return {
        one.replicate: {place: loss for place, loss in one.curve if np.isfinite(loss)}
        for one in results
        if one.curve and one.diverged is None
    }


def _curve(
    steps: Float[np.ndarray, " places"], values: Float[np.ndarray, "pairs places"]
) -> list[tuple[int, Estimate]]:
    """The mean over pairs along the branch, with its interval, thinned out: places that lie next to
    each other are averaged first."""
    groups = np.array_split(np.arange(len(steps)), min(len(steps), POINTS.branch))
    curve = []
    for group in groups:
        part = values[:, group]
        # one order of the data has the noise of its batches alone
        samples = part.mean(axis=1) if len(part) > 1 else part[0]
        estimate = (
            mean_of_few(samples.tolist())
            if len(samples) > 1
            else Estimate.exact(float(samples.mean()))
        )
        curve.append((round(float(steps[group].mean())), estimate))
    return curve


def _before(run: Run, step: int, length: int) -> Curve:
    """The training loss of the run itself before the branches, twice as long as they are."""
    steps, losses = run.losses
    chosen = (steps < step) & (steps >= step - max(2 * length, CONTEXT))
    found = blocks(steps[chosen], losses[chosen])
    return [(round(block.middle), block.mean) for block in found if np.isfinite(block.mean.value)]


def _end(results: Sequence[BranchResult], readout: str) -> tuple[int, float]:
    """The last step of an alternative and its mean readout there."""
    values = [one.readouts[readout].mean for one in results if readout in one.readouts]
    return max(one.updates for one in results), float(np.mean(values)) if values else float("nan")


def _summary(record: ForkRecord, effect: Effect, ends: Mapping[str, tuple[int, float]]) -> str:
    fork, label = record.fork, label_of(effect.readout)
    levels = " and ".join(f"{significant(end)} ({name})" for name, (_, end) in ends.items())
    return (
        f"Copies of this run from step {fork.step:,}, "
        f"{counted(max(updates for updates, _ in ends.values()), 'update')} each, end at a {label} "
        f"of {levels}. The difference is {effect.estimate} over "
        f"{counted(effect.replicates, 'data order')}."
    )
