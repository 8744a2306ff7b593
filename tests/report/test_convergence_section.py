"""The page's section of convergence: the learning rate, the theorem on it, what is left of it, and
the certificate."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gradiometer import Diagnosis, diagnose
from gradiometer.convergence.certificate import Certificate
from gradiometer.measurement import Estimate, State
from gradiometer.problems import load
from gradiometer.report.charts.charts import page_spec
from gradiometer.report.page.page import render
from gradiometer.report.sections.convergence import convergence_section, rates_of
from gradiometer.report.sections.section import Section
from gradiometer.run import Configuration, Run
from gradiometer.run.artifacts import save_artifact
from gradiometer.run.budget import Budget
from gradiometer.run.planned import planned
from gradiometer.train.training import Training
from gradiometer.verdict.words.say import say
from report_run import run_in

NOTHING = Diagnosis((), {}, {})


def of(run: Run) -> Section:
    return convergence_section(run, NOTHING)


def rows(section: Section) -> dict[str, str]:
    assert section.table is not None
    return {row[0]: row[1] for row in section.table.rows}


def certificate(relative: float = 0.0005, low: float = -0.002) -> Certificate:
    squared = Estimate.interval(
        relative**2, 0.0, 4 * relative**2, level=0.95, method="inner products", samples=64
    )
    lowest = Estimate.interval(
        low, low - 0.001, low, level=0.95, method="Lanczos, 60 products", samples=60
    )
    return Certificate(
        600, "train", squared, Estimate.exact(1.0), lowest, Estimate.exact(1.0), 2048, 1024, 1437
    )


def test_a_run_under_a_harmonic_schedule_has_the_theorems_blessing_and_its_sums(
    tmp_path: Path,
) -> None:
    run = run_in(tmp_path, steps=600, schedule="0.5/t")
    section = of(run)
    answers = rows(section)
    assert [answers[name] for name in ("η → 0", "Σ η = ∞", "Σ η² < ∞", "the theorem applies")] == [
        "yes"
    ] * 4
    rates = 0.5 / np.arange(1, 601)
    assert (
        answers["Σ η over the run"] == f"{rates.sum():.2f}"
        and answers["Σ η left from step 600"] == "0"
    )
    assert "so the theorem applies" in section.figures[0].summary
    json.dumps(page_spec(section.figures[0].chart, section.figures[0].summary), allow_nan=False)


def test_what_is_left_of_a_run_under_way_is_summed_from_where_it_stands(tmp_path: Path) -> None:
    run = run_in(tmp_path, steps=600, learning_rate=0.1, schedule="linear")
    run.manifest["steps"] = 1000
    (found,) = [each for each in (rates_of(run),) if each is not None]
    rates = 0.1 * (1 - np.arange(1000) / 1000)
    assert found.sums() == pytest.approx((rates.sum(), np.square(rates).sum()))
    assert found.sums(600) == pytest.approx((rates[600:].sum(), np.square(rates[600:]).sum()))
    assert "From step 600 to the end, Σ η = 8.02" in of(run).figures[0].summary


def test_a_long_run_is_summed_at_one_step_in_so_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gradiometer.report.sections.convergence.SUMMED", 2_000)
    run = run_in(tmp_path, steps=600, learning_rate=0.1, schedule="linear")
    run.manifest["steps"] = 15_000
    found = rates_of(run)
    assert found is not None and len(found.steps) <= 2_000
    assert found.sums()[0] == pytest.approx(0.1 * 15_000 / 2, rel=1e-3)
    assert found.sums(7_501)[0] == pytest.approx(0.1 * 15_000 / 8, rel=2e-3)


@pytest.mark.parametrize(
    ("settings", "state", "words"),
    [
        ({"schedule": "constant"}, State.LOOK, "stays at 0.100 to the end"),
        ({"schedule": "linear"}, State.OK, "which counts as zero"),
        ({"schedule": "cosine"}, State.OK, "which counts as zero"),
        ({"snapshots": 4}, State.OK, "which counts as zero"),
        ({"schedule": "0.1/sqrt(t)"}, State.LOOK, "4% of its peak"),
        (
            {"schedule": "Linear(0.1, steps=500).warmed_up(100)"},
            State.OK,
            "with a peak of 0.100 at step 100",
        ),
    ],
)
def test_whether_the_rate_reaches_zero_is_a_finding(
    tmp_path: Path, settings: dict[str, object], state: State, words: str
) -> None:
    (answer,) = of(run_in(tmp_path, steps=600, **settings)).answers
    assert answer.finding.gauge == "schedule" and answer.finding.state is state
    assert words in say(answer.finding).seen


def test_the_certificate_is_shown_in_the_section_on_its_card_and_in_the_verdict(
    tmp_path: Path,
) -> None:
    run = run_in(tmp_path, steps=600)
    assert f"`gradiometer measure certificate {run.path}` checks if" in of(run).lead
    save_artifact(run, certificate())
    section = of(run)
    assert "Verdict: minimum." in section.lead
    assert rows(section)["the same, of what it was at the start, at step 600"] == "0.000500"
    diagnosis = diagnose(run)
    finding = next(each for each in diagnosis.findings if each.gauge == "certificate")
    assert finding.state is State.OK and "the gradient of the training loss" in diagnosis.verdict
    page = render(run, diagnosis)
    assert "tolerance = 0.0100" in page and "minimum of the training loss" in page


@pytest.mark.parametrize(
    ("relative", "low", "verdict"),
    [(0.0005, -0.002, "minimum"), (0.0005, -0.5, "saddle"), (0.006, -0.002, "cannot tell")],
)
def test_every_verdict_has_its_words(relative: float, low: float, verdict: str) -> None:
    found = certificate(relative, low)
    assert found.verdict == verdict
    assert say(found.finding()).means
    slope = replace(found, gradient_squared=Estimate.exact(0.04))
    assert slope.verdict == "not stationary" and "20.0 %" in say(slope.finding()).seen


def look(step: int, rate: float, left: float, value: float, stopped: bool) -> dict[str, object]:
    predicted = Estimate.interval(
        value, value - 0.01, value + 0.01, level=0.9, method="measured", samples=16
    )
    told = {"learning_rate": rate, "steps": step, "left": left, "fell": left, "stopped": stopped}
    return {
        "event": "stationarity",
        "step": step,
        "time": 0.0,
        "predicted": predicted.to_dict(),
        "gain": predicted.to_dict(),
        **told,
    }


def cooled(tmp_path: Path) -> Run:
    """Watched at steps 100 and 200, cut there, watched again and scored; it goes to zero from step
    450."""
    run = run_in(tmp_path, steps=600, learning_rate=0.1, cool="auto")
    scored = look(400, 0.01, -0.001, 0.005, False)["predicted"]
    events = [
        look(100, 0.1, 0.5, 0.02, False),
        look(200, 0.1, 0.004, 0.03, True),
        look(400, 0.01, -0.001, 0.005, False),
        {
            "event": "cut scored",
            "step": 400,
            "time": 0.0,
            "cut_at": 200,
            "within": False,
            "seen": 0.05,
            "predicted": scored,
        },
        {
            "event": "cooling",
            "step": 450,
            "time": 0.0,
            "begins": 450,
            "fork": "0001",
            "outcome": "hold 80% ends 0.1 [0.05, 0.15] higher",
            "spent": 1.0,
        },
    ]
    with run.events_path.open("a") as journal:
        journal.writelines(json.dumps(event) + "\n" for event in events)
    return Run.open(run.path)


def test_a_run_that_cools_itself_shows_its_cuts_its_end_and_how_the_forecast_was_met(
    tmp_path: Path,
) -> None:
    section = of(cooled(tmp_path))
    found = rates_of(cooled(tmp_path))
    assert found is not None
    steps = np.arange(600)
    rates = 0.1 * np.where(steps < 450, 1.0, (599.5 - steps) / 150)
    assert found.values == pytest.approx(rates) and found.reaches_zero
    paying = section.figures[1]
    assert (
        "The rate goes to zero from step 450. The cut at step 200 gained 0.0500, not as forecast"
        in paying.summary
    )
    assert (
        "Without a cut, the possible gain is −0.00100" in paying.summary
        and len(paying.table.rows) == 3
    )
    json.dumps(page_spec(paying.chart, paying.summary), allow_nan=False)
    assert section.answers[0].finding.state is State.OK and "the theorem applies" not in rows(
        section
    )


def test_a_loop_of_ones_own_shows_the_rates_it_was_measured_at(tmp_path: Path) -> None:
    run = run_in(tmp_path, steps=600, learning_rate=0.1)
    moments = {"noise": 1.0}
    lines = [
        {
            "kind": "reading",
            "gauge": "noise",
            "step": step,
            "batch_size": 32,
            "learning_rate": rate,
            "moments": moments,
        }
        for step, rate in ((0, 0.1), (200, 0.1), (400, 0.01))
    ]
    with run.readings_path().open("a") as journal:
        journal.writelines(json.dumps(line) + "\n" for line in lines)
    section = of(Run.open(run.path))
    assert "goes from 0.100 to 0.0100 at step 400" in section.figures[0].summary
    assert "η at every step, as recorded." in section.figures[0].note
    assert not section.answers


def test_a_run_without_a_step_says_so(tmp_path: Path) -> None:
    section = of(run_in(tmp_path, steps=0))
    assert not section.figures and "Nothing has been recorded yet" in section.lead


@pytest.mark.parametrize(
    "settings",
    [
        {},
        *({"schedule": name} for name in ("cosine", "linear", "trapezoid", "0.1/t")),
        {"snapshots": 3},
    ],
)
def test_the_planned_schedule_is_the_one_training_follows(settings: dict[str, object]) -> None:
    configuration = Configuration(problem="quadratic", epochs=3, **settings)
    training = Training(load("quadratic"), configuration, Budget(0.0))
    assert training.learning_rate == pytest.approx(planned(configuration, training.steps)(0))
    assert repr(training.schedule) == repr(planned(configuration, training.steps))
