"""What a run's readings say along the run, and at the newest reading."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from gradiometer import Configuration, diagnose
from gradiometer.estimation import GradientNoise
from gradiometer.measurement import Draw, Finding, Issue, Sampling, Series, State
from gradiometer.measurement.finding import Doubt, Trial
from gradiometer.problems import load
from gradiometer.run import Run
from gradiometer.train import train
from gradiometer.verdict import say
from gradiometer.verdict.claims import Claim, Claimed
from gradiometer.verdict.diagnosis import _answers, along, leading, led_by, without_refuted
from gradiometer.verdict.reservations import Reservations
from gradiometer.verdict.triage.level import Known, Level
from gradiometer.verdict.triage.triage import Triage, findings_of
from gradiometer.verdict.words.say import headline_in_words
from report_run import LAYERS, run_in


def test_along_the_run_whole_quantities_are_estimated_and_layers_at_the_newest_reading_alone(
    tmp_path: Path,
) -> None:
    run = run_in(tmp_path, steps=100)
    random = np.random.default_rng(0)
    with run.readings_path().open("a") as file:
        for step in range(100):
            moments = {
                "gradient_variance": random.gamma(2, 4, 5).tolist(),
                "gradient_norm_squared": random.normal(0.1, 0.2, 5).tolist(),
            }
            line = {
                "kind": "reading",
                "gauge": "noise",
                "step": step,
                "batch_size": 32,
                "learning_rate": 0.1,
            }
            file.write(json.dumps(line | {"moments": moments}) + "\n")
    run = Run.open(run.path)
    found, series = diagnose(run), run.series("noise")
    assert series is not None and series.layers == LAYERS
    assert {name for name in found.estimates if "/" in name} == {
        f"{quantity}/{layer}" for quantity in ("noise_scale", "noise_share") for layer in LAYERS
    }
    assert set(found.history) == {
        name for name in found.estimates if name.isidentifier() and "test_" not in name
    }
    for place, past in enumerate(along(series)):
        expected = GradientNoise().estimate(past.at_newest(by_layer=False))
        for name, points in found.history.items():
            assert points[place] == (int(past.steps[-1]), expected[name])


def test_the_curves_along_a_run_are_made_when_one_is_asked_for(tmp_path: Path) -> None:
    run = run_in(tmp_path, steps=60)
    random = np.random.default_rng(0)
    line = {"kind": "reading", "gauge": "noise", "batch_size": 32, "learning_rate": 0.1}
    with run.readings_path().open("a") as file:
        for step in range(60):
            variance = random.gamma(2, 4, len(LAYERS)).tolist()
            moments = {"gradient_variance": variance, "gradient_norm_squared": [0.5] * len(LAYERS)}
            file.write(json.dumps({**line, "step": step, "moments": moments}) + "\n")
    code = (
        "import sys\n"
        "from gradiometer import Run, diagnose\n"
        "from gradiometer.estimation import GradientNoise\n"
        "calls, estimate = [], GradientNoise.estimate\n"
        "GradientNoise.estimate = lambda *given: calls.append(given) or estimate(*given)\n"
        "found = diagnose(Run.open(sys.argv[1]))\n"
        "print(len(calls), len(found.history['noise_scale']), len(calls))\n"
    )
    # in another process: the suite checks the types of what a mapping holds, and so asks for it
    made = subprocess.run(
        [sys.executable, "-c", code, str(run.path)], capture_output=True, text=True, check=True
    )
    before, points, after = map(int, made.stdout.split())
    assert before == 1 and points > 5 and after == points + 1


@pytest.mark.parametrize(
    ("moments", "reason"),
    [
        ({"norm_squared": 1.0}, "they have no 'curvature'"),
        (
            {"norm_squared": 1.0, "curvature": 1.0, "momentum": [0.5, 0.5], "nesterov": 0.0},
            "a list is no number",
        ),
    ],
)
def test_a_gauge_whose_only_reading_is_spoiled_is_left_out_with_a_warning(
    tmp_path: Path, moments: dict, reason: str
) -> None:
    run = run_in(tmp_path, steps=100)
    line = {"kind": "reading", "gauge": "batch_sharpness", "step": 9}
    line |= {"batch_size": 32, "learning_rate": 0.1, "moments": moments}
    with run.readings_path().open("a") as file:
        file.write(json.dumps(line) + "\n")
    run = Run.open(run.path)
    assert "batch_sharpness" not in diagnose(run).estimates
    assert run.warnings == [f"readings of batch_sharpness cannot be read: left out ({reason})."]


@pytest.mark.parametrize(
    ("readings", "points"), [(1, 1), (3, 1), (16, 1), (20, 5), (24, 9), (40, 15), (1000, 24)]
)
def test_the_curve_has_points_along_the_run_and_ends_at_the_newest_reading(
    readings: int, points: int
) -> None:
    steps = np.arange(readings)
    series = Series(
        "noise", steps, steps + 1, steps / 10, {"trace": steps / 1}, Sampling(Draw.FRESH)
    )
    ends = [len(past) for past in along(series)]
    assert len(ends) == points and ends == sorted(set(ends)) and ends[-1] == readings


def own(gauge: str, state: State, seen: str, **facts: str) -> Finding:
    return Finding(
        gauge, Issue.CONVERGENCE, "own", state, facts={"seen": seen, "means": "It is.", **facts}
    )


def verdict_of(run: Run, findings: list[Finding]) -> str:
    return headline_in_words(
        leading(run, findings), run.configuration, is_over=run.status == "finished"
    )


@pytest.mark.parametrize(
    ("claim", "doubts", "leads"),
    [
        ("healthy", (), True),
        ("undecided", (Doubt("decay_not_tried"),), True),
        ("undecided", (), False),
    ],
)
def test_a_training_without_an_illness_leads_over_what_makes_it_cheaper(
    tmp_path: Path, claim: str, doubts: tuple[Doubt, ...], leads: bool
) -> None:
    run = run_in(tmp_path, steps=100)
    advice = own("noise", State.LOOK, "The batch is small.")
    verdict = Finding("triage", Issue.CONVERGENCE, claim, State.OK, doubts=doubts)
    assert leading(run, [advice, verdict]) is (verdict if leads else advice)


def test_a_spike_that_came_back_does_not_lead_over_triage(tmp_path: Path) -> None:
    run = run_in(tmp_path, steps=100)
    verdict = Finding("triage", Issue.CONVERGENCE, "undecided", State.OK)
    # of several spikes, the facts are those of the clearest, and the newest one may last
    for came_back, state in ((True, State.LOOK), (False, State.LOOK), (True, State.ACT)):
        spike = Finding("spikes", Issue.DRIFT, "spike_unknown", state, facts={"ended": came_back})
        leads_over = not came_back or state is State.ACT
        assert leading(run, [spike, verdict]) is (spike if leads_over else verdict)
        assert leading(run, [spike]) is spike


def test_the_finding_goes_on_with_the_sentence_of_the_verdict(tmp_path: Path) -> None:
    run = run_in(tmp_path, steps=100)
    for seen, ending in (
        ("Training stands at a saddle.", "training stands at a saddle"),
        ("B = 32 is below.", "B = 32 is below"),
        ("ReLU 1: 3 of 4 units are dead.", "ReLU 1: 3 of 4 units are dead"),
    ):
        assert verdict_of(run, [own("any", State.ACT, seen)]) == ending


def test_a_verdict_that_is_not_urgent_is_short_and_says_if_it_cannot_tell(tmp_path: Path) -> None:
    run = run_in(tmp_path, steps=100)
    under_way = own(
        "trajectory",
        State.OK,
        "The parameters are under way: by 0.9.",
        lead="The parameters are under way",
    )
    unknown = own("noise", State.CANNOT_TELL, "The noise scale is at least 9.")
    assert verdict_of(run, [unknown, under_way]) == "the parameters are under way"
    assert (
        run.status == "finished"
        and verdict_of(run, [unknown]) == "cannot tell: the noise scale is at least 9"
    )
    events = (run.path / "events.jsonl").read_text().splitlines(keepends=True)
    (run.path / "events.jsonl").write_text(
        "".join(line for line in events if '"finished"' not in line)
    )
    assert (
        verdict_of(Run.open(run.path), [unknown])
        == "cannot tell yet: the noise scale is at least 9"
    )


def test_the_verdict_is_the_outcome_and_the_headline(tmp_path: Path) -> None:
    found = diagnose(run_in(tmp_path, steps=100))
    assert found.outcome.startswith("Trained for 100 steps; test accuracy")
    assert found.verdict.startswith(f"{found.outcome}; ")
    assert found.verdict == f"{found.outcome}; {found.said}."
    assert found.headline is None and found.said.startswith("nothing was measured")


def test_a_budget_that_could_not_pay_for_enough_readings_is_a_finding_with_two_ways_out(
    tmp_path: Path,
) -> None:
    run = run_in(tmp_path, steps=300)
    overhead = {
        "budget": 0.02,
        "used": 0.08,
        "measured_steps": 9,
        "every": 30.0,
        "mode": "apart",
        "short_of": 20,
    }
    noise = {"gauge": "noise", "batch_size": 32, "learning_rate": 0.1}
    with run.readings_path().open("a") as file:
        for step, norm in ((0, 0.4), (30, -0.3)):
            moments = {"gradient_variance": [4.0] * 5, "gradient_norm_squared": [norm] * 5}
            file.write(
                json.dumps({"kind": "reading", "step": step, "moments": moments, **noise}) + "\n"
            )
        file.write(json.dumps({"kind": "overhead", **overhead}) + "\n")
    findings = diagnose(Run.open(run.path)).findings
    (found,) = [finding for finding in findings if finding.gauge == "overhead"]
    assert found.state is State.CANNOT_TELL and say(found).seen.startswith(
        "The budget of 2 % paid for 9 readings"
    )
    assert (
        say(found).advice
        == "Set a larger `budget`, or `every` = 1 to measure every step, at any cost."
    )
    assert not [finding for finding in findings if "more steps" in say(finding).seen]


def test_without_a_verdict_there_is_no_advice_and_no_forecast() -> None:
    told = replace(
        own("noise", State.LOOK, "Seen.", advice="Try.", forecast="Forecast: 0.5."),
        cure=("rate 2x",),
    )
    held = Reservations(loss="another loss").on(told, uses_loss=True)
    assert (held.state, say(held).advice, say(held).forecast, held.cure) == (
        State.CANNOT_TELL,
        "",
        "",
        (),
    )
    assert "Forecast" not in str(say(held)) and "Forecast" in str(say(told))
    assert Reservations(loss="another loss").on(told, uses_loss=False) == told


@pytest.mark.parametrize(
    ("claim", "shown"),
    [
        ("batch_small", {"preconditioned_noise"}),
        ("batch_not_large", {"preconditioned_noise"}),
        ("batch_undecided", {"noise", "preconditioned_noise"}),
    ],
)
def test_where_the_preconditioned_scale_answers_the_plain_one_is_silent(
    claim: str, shown: set[str]
) -> None:
    preconditioned = Finding("preconditioned_noise", Issue.ESTIMATION, claim, State.OK)
    plain = Finding("noise", Issue.ESTIMATION, "batch_undecided", State.CANNOT_TELL)
    stopped = Finding("noise", Issue.ESTIMATION, "gauge_unavailable", State.CANNOT_TELL)
    kept = _answers([preconditioned, plain, stopped])
    assert {each.gauge for each in kept if each.claim.startswith("batch_")} == shown
    assert stopped in kept


NO_RUN = """
import sys
from gradiometer import BadArgument, Run, diagnose
from gradiometer.loop import forks_of
from gradiometer.report.compare import compare
from gradiometer.report.page import write_page
from gradiometer.train import incident_cause, loop_at

folder = sys.argv[1]
run = Run.open(folder)
for call in (
    lambda: diagnose(folder),
    lambda: forks_of(folder),
    lambda: loop_at(folder),
    lambda: write_page(folder, None),
    lambda: compare([folder, folder]),
    lambda: incident_cause(folder, 3),
    lambda: write_page(run, {}),
    lambda: Run.open(run),
    lambda: compare(run),
    lambda: loop_at(run, [3]),
    lambda: incident_cause(run, None),
):
    try:
        call()
    except BadArgument as error:
        print(error)
"""


def test_a_folder_in_place_of_a_run_is_refused_with_how_to_open_it(tmp_path: Path) -> None:
    """Also what is no run, no folder or no step. In a process without the checks of types that
    these tests have."""
    run = train(load("quadratic"), Configuration(problem="quadratic", steps=8), tmp_path)
    command = [sys.executable, "-c", NO_RUN, str(run.path)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    how = " must be a Run, got str: open the folder of a run with Run.open(folder)."
    assert said[:6] == [f"`{'runs' if place == 4 else 'run'}`{how}" for place in range(6)]
    assert said[6:] == [
        "`diagnosis` must be a Diagnosis, got dict: give diagnose(run).",
        "`path` must be the path of a folder, got gradiometer.run.reader.Run.",
        "`runs` must be 2 to 200 runs, got gradiometer.run.reader.Run.",
        "`at` must be a whole number, got [3].",
        "`step` must be a whole number, got None.",
    ]


def test_a_reading_at_no_finite_rate_is_left_out_with_its_line(tmp_path: Path) -> None:
    run = run_in(tmp_path, steps=100)
    path = run.readings_path()
    line = {"kind": "reading", "gauge": "batch_sharpness", "batch_size": 32, "moments": {"a": 1.0}}
    with path.open("a") as file:
        for step, rate in enumerate((0.1, "inf", 0.1)):
            file.write(json.dumps(line | {"step": step, "learning_rate": rate}) + "\n")
    place = len(path.read_text().splitlines()) - 1
    spoiled = Run.open(run.path)
    assert spoiled.series("batch_sharpness").steps.tolist() == [0, 2]
    assert spoiled.warnings == [f"readings.jsonl:{place}: a line cannot be read: skipped."]


def in_state(claimed: Claimed, *, advised: bool) -> tuple[list[Finding], Finding]:
    """The findings beside a gauge that advises a larger batch, and that of triage."""
    judged = Triage((claimed,), Level(2.3, Known.LABELS), unseen={})
    cure = ("batch 2x",) if advised else ()
    state = State.LOOK if advised else State.OK
    noise = Finding("own", Issue.ESTIMATION, "own", state, facts={"seen": "Seen."}, cure=cure)
    found = led_by(judged, findings_of(judged), [noise])
    return found, next(each for each in found if each.gauge == "triage")


@pytest.mark.parametrize(
    ("claim", "doubts", "advised", "state"),
    [
        (Claim.HEALTHY, (), False, State.OK),
        (Claim.HEALTHY, (), True, State.LOOK),
        (Claim.UNDECIDED, ("rate_not_tried",), False, State.LOOK),
        (Claim.UNDECIDED, ("rate_not_tried",), True, State.LOOK),
    ],
)
def test_no_training_is_called_fine_beside_advice_or_a_doubt(
    claim: Claim, doubts: tuple[str, ...], advised: bool, state: State
) -> None:
    claimed = Claimed(claim, {"steps": 500.0, "travel": 0.5, "loss": 0.1}, doubts=doubts)
    _, finding = in_state(claimed, advised=advised)
    assert finding.state is state


def test_while_a_doubt_stands_no_other_row_advises_a_change() -> None:
    claimed = Claimed(Claim.UNDECIDED, {"steps": 500.0}, doubts=("rate_not_tried",))
    found, doubtful = in_state(claimed, advised=True)
    assert [each.gauge for each in found if each.cure] == ["triage"]
    assert doubtful.cure == ("rate 2x",)
    ended_worse = Trial(
        ({"verdict": "did not hold", "effect": SimpleNamespace(alternative="rate 2x")},)
    )
    assert without_refuted(replace(doubtful, trial=ended_worse)).cure == ()
