"""The noise gauge against exact answers: every per-example gradient is known."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from gradiometer.estimation import noise
from gradiometer.measurement import Draw
from gradiometer.measurement.reading import Spread
from gradiometer_lab.learn.selftest import selftest
from gradiometer_lab.selftest import checks
from gradiometer_lab.selftest.checks import (
    Bench,
    SelfTest,
    coverage,
    drawn_halves,
    gradient_norm_squared,
    gradient_variance,
    run_checks,
    windows_of_readings,
)
from gradiometer_lab.selftest.known import (
    KnownProblem,
    KnownQuadratic,
    known_network,
    known_problems,
)

QUADRATIC, LOGISTIC, MLP = known_problems()
PROBLEMS = pytest.mark.parametrize(
    "known", [QUADRATIC, LOGISTIC, MLP], ids=lambda known: known.name
)


def assert_passed(made: list[SelfTest]) -> None:
    assert made
    assert [check for check in made if not check.passed] == []


@PROBLEMS
def test_gradients_by_hand_equal_those_of_autograd(known: KnownProblem) -> None:
    objective = known.objective()
    for example, gradient in enumerate(known.per_example):
        parts = objective.gradient(known.batch(torch.tensor([example])))
        for place, layer in enumerate(objective.layers):
            expected = sum(
                part.square().sum()
                for part, where in zip(parts, objective.layer_of, strict=True)
                if where == place
            )
            torch.testing.assert_close(gradient[known.layers[layer]].square().sum(), expected)


@PROBLEMS
def test_the_noise_along_a_chain_is_exact_at_every_point(known: KnownProblem) -> None:
    points = known.point + torch.randn(
        3, len(known.point), dtype=torch.float64, generator=torch.manual_seed(1)
    )
    drawn = drawn_halves(torch.manual_seed(2), 3, 8, len(known.examples))
    halves, full, trace = known.gradients(points, drawn)
    for place, point in enumerate(points):
        each = replace(known, point=point).per_example
        torch.testing.assert_close(full[place], each.mean(0))
        torch.testing.assert_close(halves[place], drawn[place] @ each)
        assert trace[place].item() == pytest.approx(gradient_variance(each))


def test_steps_by_hand_equal_steps_of_the_model() -> None:
    objective, everything = MLP.objective(), MLP.batch(torch.arange(len(MLP.examples)))
    points, none = (
        MLP.point[None].clone(),
        torch.empty(1, 0, len(MLP.examples), dtype=torch.float64),
    )
    for _ in range(20):
        points -= 0.5 * MLP.gradients(points, none).of_train
        step = parameters_to_vector(objective.gradient(everything))
        vector_to_parameters(
            parameters_to_vector(objective.parameters) - 0.5 * step, objective.parameters
        )
    model = parameters_to_vector(objective.parameters)
    assert model.norm().item() == pytest.approx(points.norm().item(), rel=1e-10)


def test_chains_on_the_quadratic_have_its_stationary_noise_scale() -> None:
    windows = windows_of_readings(QUADRATIC, 4, 1.5, 300, 100, burn_in=100)
    seen = windows.gradient_variance.mean(
        axis=1
    ) - windows.noise_scale * windows.gradient_norm_squared.mean(axis=1)
    assert abs(seen.mean()) < 4 * seen.std() / np.sqrt(len(seen))


@pytest.mark.slow
@pytest.mark.parametrize(
    "bench",
    [Bench(MLP, 2), Bench(LOGISTIC, 32, draw=Draw.RESHUFFLED), Bench(QUADRATIC, 4, parts=None)],
    ids=[
        "MLP at 2",
        "logistic regression at 32 without replacement",
        "quadratic at 4, per example",
    ],
)
def test_gradient_variance_and_norm_are_unbiased(bench: Bench) -> None:
    assert_passed(list(bench.checks(400)))


def test_a_missing_correction_of_the_norm_is_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    def uncorrected(spread: Spread) -> tuple[np.ndarray, np.ndarray]:
        return noise_moments(spread)[0], spread.mean_squared_norm

    noise_moments = noise.noise_moments
    monkeypatch.setattr(noise, "noise_moments", uncorrected)
    failed = [check.quantity for check in Bench(QUADRATIC, 4).checks(200) if not check.passed]
    assert failed == ["‖g‖²"]


def test_noise_without_replacement_is_smaller_than_with_it() -> None:
    each, error = (
        LOGISTIC.per_example,
        next(iter(Bench(LOGISTIC, 32, draw=Draw.RESHUFFLED).checks(200))),
    )
    assert error.passed
    assert error.high < gradient_variance(each) / 32


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [2, 32])
def test_intervals_of_the_noise_scale_cover_for_independent_readings(batch_size: int) -> None:
    assert_passed(coverage(LOGISTIC, batch_size, 1000))


@pytest.mark.nightly
def test_intervals_of_the_noise_scale_cover_along_sgd() -> None:
    assert_passed(coverage(QUADRATIC, 4, 1000, rate=1.5, steps=200))


def test_unbounded_intervals_cover_at_least_at_their_level() -> None:
    assert_passed(coverage(QUADRATIC, 2, 500, rate=0.2, steps=100, undecided=True))


def test_intervals_a_third_too_narrow_are_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "LEVEL", 0.73)
    assert not coverage(QUADRATIC, 4, 500)[0].passed


def test_noise_of_the_known_problems_has_several_directions_and_a_moderate_size() -> None:
    for known in (QUADRATIC, LOGISTIC, MLP):
        centred = known.per_example - known.per_example.mean(0)
        levels = torch.linalg.svdvals(centred).square()
        assert levels.sum().square() / levels.square().sum() > 3  # effective rank of Σ
        assert (
            0.5
            < gradient_variance(known.per_example) / gradient_norm_squared(known.per_example)
            < 10
        )


@pytest.mark.nightly
def test_every_check_of_the_full_selftest_passes() -> None:
    """The quick one is run by the documentation's first page, through the command."""
    assert_passed(run_checks(full=True, pool="processes"))


@pytest.mark.nightly
def test_skewed_readings_of_learnt_examples_need_longer_windows_to_cover() -> None:
    """What the selftest leaves out on purpose: at B = 2 and little weight decay single readings are
    skewed by 10."""
    learnt = known_network("logistic regression", hidden=(), weight_decay=0.1)
    short, long = (
        windows_of_readings(learnt, 2, 1.0, 1000, steps, burn_in=200) for steps in (200, 1600)
    )
    assert 0.8 < short.covered() / len(short) < 0.92
    assert 0.87 <= long.covered() / len(long) <= 0.93


PASSED = SelfTest(
    "quadratic", 4, "tr Σ", "4.26, within 4 standard errors", 4.242, 4.015, 4.468, passed=True
)
FAILED = replace(PASSED, quantity="‖g‖²", measured=np.inf, passed=False)


@pytest.mark.parametrize(("made", "code"), [([PASSED], 0), ([PASSED, FAILED], 1)])
def test_the_exit_code_says_whether_all_checks_passed(
    made: list[SelfTest], code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "gradiometer_lab.selftest.checks.run_checks", lambda full, progress, pool: made
    )
    assert selftest.main(["--json"], standalone_mode=False) == code


def test_the_table_marks_failed_checks_with_a_word_and_a_sign(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        "gradiometer_lab.selftest.checks.run_checks", lambda full, progress, pool: [PASSED, FAILED]
    )
    printed = CliRunner().invoke(selftest, [], env={"COLUMNS": "160"}).output
    rows = [line for line in printed.splitlines() if "quadratic" in line]
    assert "4.242 [4.015, 4.468]" in rows[0] and "✓ passed" in rows[0]
    assert "∞" in rows[1] and "✗ failed" in rows[1]
    assert "2 checks, 1 failed" in printed


def test_json_holds_every_check_and_the_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "gradiometer_lab.selftest.checks.run_checks", lambda full, progress, pool: [PASSED, FAILED]
    )
    printed = json.loads(CliRunner().invoke(selftest, ["--json"]).stdout)
    assert printed["passed"] is False
    assert printed["checks"][0]["name"] == "tr Σ, quadratic, B = 4"
    assert printed["checks"][1]["measured"] == "inf"


def test_progress_is_reported_for_every_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "_tests_of_moments", lambda steps, full=False: [lambda: [PASSED]])
    monkeypatch.setattr(checks, "_tests_of_coverage", lambda windows: [lambda: [FAILED]])
    told = []
    assert run_checks(progress=lambda done, total: told.append((done, total))) == [PASSED, FAILED]
    assert told == [(1, 2), (2, 2)]


def test_the_quadratic_has_the_noise_of_its_training_set() -> None:
    assert isinstance(QUADRATIC, KnownQuadratic)
    assert QUADRATIC.quadratic.gradient_variance == pytest.approx(
        gradient_variance(QUADRATIC.per_example)
    )
