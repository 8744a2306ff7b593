"""The lecture's predictions can fail: they are finite, and a wrong theory misses what is measured,
elsewhere too."""

from dataclasses import replace

import pytest

from gradiometer.convergence.schedules import SnapshotCycle
from gradiometer.measurement import Estimate
from gradiometer_lab.lecture import s05, s07, s08, s12
from gradiometer_lab.lecture.catalogue import STATEMENTS
from gradiometer_lab.lecture.network import digits_network
from gradiometer_lab.lecture.statement import (
    Circumstance,
    Experiment,
    ExperimentResult,
    Rival,
    measure,
    meets,
    predict,
    result,
)


def within(low: float, high: float) -> Estimate:
    return Estimate.interval((low + high) / 2, low, high, level=0.999, method="test", samples=100)


def outcome(rival: float) -> ExperimentResult:
    """A quantity that is 1 by the right theory, and measured as 1.0 ± 0.1."""
    return measure(
        predict(
            Experiment(
                name="test",
                setting=Circumstance.REAL,
                where="a test",
                quantity="q",
                dial="d",
                points=(1, 2),
                predict=lambda _: within(0.7, 1.05),
                measure=lambda _: within(0.9, 1.1),
                says="One.",
                rival=Rival("another number", lambda _: rival),
            )
        )
    )


def excludes(ours: Estimate, theirs: Estimate, rival: float) -> bool:
    return not (ours.low <= rival <= ours.high or theirs.low <= rival <= theirs.high)


@pytest.mark.parametrize(
    ("rival", "points"),
    [
        pytest.param(2.0, 2, id="far"),
        pytest.param(1.08, 0, id="measured, though not predicted"),
        pytest.param(0.8, 0, id="predicted, though not measured"),
        pytest.param(float("nan"), 2, id="no number"),
    ],
)
def test_a_wrong_theory_is_excluded_only_outside_of_both_intervals(
    rival: float, points: int
) -> None:
    assert outcome(rival).held
    assert outcome(rival).refuted == points


def test_nothing_is_refuted_before_the_measurement() -> None:
    assert replace(outcome(2.0), measured=()).refuted == 0


@pytest.mark.nightly
@pytest.mark.parametrize("name", STATEMENTS)
def test_every_prediction_held_is_finite_and_a_wrong_theory_would_have_missed(name: str) -> None:
    found = result(STATEMENTS[name])
    assert {each.experiment.name: each.held for each in found.outcomes if not each.held} == {}
    for each in found.outcomes:
        assert all(estimate.tells for estimate in each.predicted), each.experiment.name
    assert found.real.refuted >= 1
    wrong = replace(found.real, predicted=tuple(map(Estimate.exact, found.real.rival)))
    assert not wrong.held
    assert wrong.refuted == 0


@pytest.mark.nightly
def test_the_barrier_between_other_runs_is_the_one_of_reordered_units() -> None:
    for step in s05.NUMBERS.steps:  # of the same runs
        ours, theirs = s05.by_symmetry(step, first=2000), s05.between_runs(step, first=2000)
        assert meets(ours, theirs)
        assert excludes(ours, theirs, 0.0)


def test_reordered_units_compute_the_same_function() -> None:
    network = digits_network(1)
    weights = [parameter.detach() for parameter in network.objective.model.parameters()]
    other = s05.permutation(weights, seed=1)
    assert not weights[0].equal(other[0])
    assert network.loss(other) == pytest.approx(network.loss(weights), rel=1e-5)


@pytest.mark.nightly
def test_two_runs_part_as_a_random_walk_from_another_network_too() -> None:
    network = digits_network(40)
    for steps in (4, 16):
        ours, theirs = (
            s05.spread_of_walks(network, steps, seed=3),
            s05.separation(network, steps, seed=3),
        )
        assert meets(ours, theirs)
        one = s05.spread_of_walks(network, 1).value
        assert excludes(ours, theirs, one * steps**2), "the wrong exponent"
        assert excludes(ours, theirs, 0.0), "no noise"
        assert excludes(ours, theirs, 2 * one * steps), "twice the temperature"


@pytest.mark.nightly
def test_the_gradient_of_another_network_is_paid_by_its_loss_and_its_noise() -> None:
    run = s07.training(seed=53, hidden=24)
    for steps in s07.NUMBERS.network_times:
        ours, theirs = run.balance(steps), Estimate.exact(run.weighted_mean(steps))
        assert meets(ours, theirs)
        noise = ours.value - run.without_noise(steps)
        assert excludes(ours, theirs, ours.value - noise), "no noise"
        assert excludes(ours, theirs, ours.value + noise), "twice the noise"


@pytest.mark.nightly
@pytest.mark.parametrize("pair", [(2, 7), (5, 6)])
def test_other_separable_classes_drive_the_weights_to_infinity_at_the_pace_of_their_margin(
    pair: tuple[int, int],
) -> None:
    classes = s08.Separable(pair)
    for reached in s08.NUMBERS.reached:
        assert meets(classes.length(reached), Estimate.exact(classes.lengths[reached]))
    last = s08.NUMBERS.reached[-1]
    pace = classes.length(last), Estimate.exact(classes.lengths[last])
    assert excludes(*pace, classes.lengths[s08.NUMBERS.reached[0]]), "a minimum"
    assert excludes(*pace, 2 * last / classes.margin), "half of the margin"
    assert excludes(*pace, (last / classes.margin) ** 0.5), "the wrong exponent"


def test_the_margin_of_two_classes_is_reached_by_no_other_direction() -> None:
    classes = s08.Separable((0, 1))
    mean = classes.signed_inputs.mean(axis=0)
    assert 0 < classes.margin < (mean @ mean) ** 0.5, "the hull is nearer to zero than its middle"
    assert (classes.signed_inputs @ mean).min() / (mean @ mean) ** 0.5 < classes.margin


@pytest.mark.nightly
def test_the_gain_of_other_snapshots_is_known_before_they_are_trained() -> None:
    cycles = s12.RegressionCycles(SnapshotCycle(0.15, steps=60, snapshots=5), size=16, seed=5)
    for count in (2, 3, 5):
        measured_gain = cycles.measured_gain(count)
        ours = Estimate.exact(cycles.gain(count))
        assert meets(ours, measured_gain)
        assert excludes(ours, measured_gain, cycles.gain(count, memory=False)), (
            "snapshots without memory"
        )
        assert excludes(ours, measured_gain, 2 * cycles.gain(count)), "twice the temperature"
