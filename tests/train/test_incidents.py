"""Incidents that were planted: their cause is named, down to the example, the batch, the layer or
the rate."""

import json
from pathlib import Path
from typing import Any

import pytest

import planted_incidents
import spiking
from command_line import called
from gradiometer import BadArgument, Configuration, Diverged, Run, diagnose
from gradiometer.drift.spikes.cause import clearest
from gradiometer.loop.recorded.incidents import IncidentCause, incident_at, spikes_of
from gradiometer.problems import Problem, load
from gradiometer.run.artifacts import load_artifacts
from gradiometer.train import incident_cause, train
from gradiometer.verdict import say
from gradiometer.verdict.words.incidents import how_to_go_on, incident_sentence
from planted_incidents import BATCH, CASES, STEP, Cause


def trained(problem: Problem, out: Path, **settings: Any) -> Run:
    configuration = Configuration(
        problem=problem.name,
        batch_size=BATCH,
        epochs=1,
        budget=0.0,
        check_edge=False,
        check_endpoint=False,
        **settings,
    )
    try:
        return train(problem, configuration, out)
    except Diverged as error:
        assert "--spike" in str(error)
        return Run.open(next(out.iterdir()))


def seen(run: Run) -> int:
    """The step that a person points at: where the run ended, or that of the planted batch."""
    return run.steps if run.status == "diverged" else STEP


@pytest.mark.parametrize(
    "shift",
    [pytest.param(0, marks=pytest.mark.nightly), pytest.param(100, marks=pytest.mark.slow)],
)
@pytest.mark.parametrize("name", CASES)
def test_the_cause_of_a_planted_incident_is_named(name: str, shift: int, tmp_path: Path) -> None:
    settings, cause = CASES[name]
    problem: Problem = getattr(planted_incidents, name)(shift)
    run = trained(problem, tmp_path, **settings)
    found = incident_cause(run, seen(run), problem=problem)
    named: Cause = found.cause, found.layer
    assert named == cause, (incident_sentence(found, run.path), found.tried)
    assert found.tried["again"] and f"loop_at(run, {found.start})" in incident_sentence(
        found, run.path
    )
    if found.cause in ("example", "batch"):
        assert found.step == STEP
    if found.cause == "example":
        (example,) = found.examples
        assert example in planted_incidents.planted().tolist()


def test_a_nan_is_traced_to_its_example(tmp_path: Path) -> None:
    problem = planted_incidents.nan_example_small()
    run = trained(problem, tmp_path, learning_rate=0.05)
    assert len(run.losses[1]) == STEP, "the losses before a divergence are written"
    found = incident_cause(run, STEP, problem=problem)
    assert found.examples == (int(planted_incidents.planted()[3]),)
    assert (
        str(run.path) in how_to_go_on(found, run.path)
        and f"--at {STEP - 8}" in how_to_go_on(found, run.path)
        and "'skip 120:121'" in how_to_go_on(found, run.path)
    )


def test_the_batch_of_a_spike_that_begins_in_the_noise_before_it_is_found(tmp_path: Path) -> None:
    problem = spiking.bad_example()
    configuration = Configuration(
        problem=problem.name, learning_rate=0.02, batch_size=8, epochs=1, check_edge=False
    )
    run = train(problem, configuration, tmp_path)
    spike = spikes_of(run)[0]
    assert spike.first < 500 < spike.last
    found = incident_cause(run, 500, problem=problem)
    assert (found.cause, found.step, found.change) == ("example", 500, "skip 500:501"), found.tried


def test_a_spike_that_needs_several_batches_has_all_of_them_as_its_cause(tmp_path: Path) -> None:
    problem = planted_incidents.stretch_small()
    run = trained(problem, tmp_path, learning_rate=0.05)
    found = incident_cause(run, STEP + 1, problem=problem)
    assert (found.cause, found.change) == ("batches", f"skip {STEP}:{STEP + 4}"), found.tried
    assert f"the batches of steps {STEP} to {STEP + 3}" in incident_sentence(found, run.path)
    (kept,) = load_artifacts(run, IncidentCause)
    assert kept == found
    (file,) = (run.path / "incidents").iterdir()
    stored = json.loads(file.read_text())
    without = json.dumps({name: value for name, value in stored.items() if name != "last"})
    file.write_text(without)
    (earlier,) = load_artifacts(run, IncidentCause)
    assert earlier.last is None, "a file of an earlier version has no last step"


def test_a_step_without_an_incident_is_refused(tmp_path: Path) -> None:
    run = trained(planted_incidents.rate_small(), tmp_path, learning_rate=0.05)
    with pytest.raises(BadArgument, match=r"where the loss .* did not rise"):
        incident_cause(run, 60)


def test_a_divergence_whose_last_losses_are_not_on_record_is_that_of_its_event(
    tmp_path: Path,
) -> None:
    run = trained(planted_incidents.nan_example_small(), tmp_path, learning_rate=0.05)
    readings = run.readings_path()
    kept = [line for line in readings.read_text().splitlines() if '"kind":"losses"' not in line]
    losses = {"kind": "losses", "from": 0, "values": [1.0] * 20}
    readings.write_text("\n".join([*kept, json.dumps(losses)]) + "\n")
    found = incident_at(Run.open(run.path), STEP)
    assert found is not None and (found.kind, found.first) == ("not finite", STEP)


@pytest.mark.slow
def test_the_command_names_the_example(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    problem = "planted_incidents:outlier_deep"
    configuration = Configuration(
        problem=problem, batch_size=BATCH, epochs=1, budget=0.0, learning_rate=0.1
    )
    run = train(load(problem), configuration, tmp_path)
    code, printed, _ = called(capsys, "fork", str(run.path), "--spike", str(STEP), "--json")
    incident = json.loads(printed)["incident"]
    assert code == 0 and incident["cause"] == "example" and incident["step"] == STEP
    code, printed, _ = called(capsys, "fork", str(run.path), "--spike", str(STEP))
    assert code == 0 and "Cause: example" in printed and "again" in printed


def spiked(problem: Problem, out: Path, rate: float, **settings: Any) -> Run:
    configuration = Configuration(
        problem=f"spiking:{problem.name.replace('-', '_')}",
        learning_rate=rate,
        batch_size=8,
        epochs=1,
        budget=0.0,
        check_edge=False,
        check_endpoint=False,
        **settings,
    )
    return train(problem, configuration, out)


def test_a_spike_at_the_edge_of_stability_has_the_rate_as_its_cause(tmp_path: Path) -> None:
    problem = spiking.edge()
    run = spiked(problem, tmp_path, 0.1)
    spike = clearest(spikes_of(run))

    def tried() -> str:
        return next(
            say(finding).tried for finding in diagnose(run).findings if finding.gauge == "spikes"
        )

    assert tried() == f"Not tested: `gradiometer fork {run.path} --spike {spike.peak}`."
    found = incident_cause(run, spike.peak, problem=problem)
    assert (found.cause, found.change) == ("rate", "rate 0.5x"), found.tried
    assert found.orders == (True, True, True)
    assert tried() == "", "the cause is a finding of its own"
    assert "incident" in {finding.gauge for finding in diagnose(run).findings}


@pytest.mark.slow
def test_a_long_spike_among_high_single_losses_is_looked_for_in_means(tmp_path: Path) -> None:
    problem = spiking.bad_stretch()
    run = spiked(problem, tmp_path, 0.01)
    spike = max(spikes_of(run), key=lambda each: each.length)
    found = incident_cause(run, spike.peak, problem=problem)
    assert spike.length >= 50 and found.incident.window == spike.length
    assert found.incident.limit < (spike.level + spike.height) / 2
    assert found.cause == "batches" and found.last is not None, found.tried
    assert spike.first <= found.step < found.last <= spike.last


@pytest.mark.slow
def test_a_spike_in_the_last_batch_of_a_run_is_put_down_to_it(tmp_path: Path) -> None:
    problem = spiking.bad_example()
    run = spiked(problem, tmp_path, 0.02, steps=501)
    found = incident_cause(run, 500, problem=problem)
    assert (found.cause, found.change) == ("example", "skip 500:501"), found.tried


def test_the_command_takes_no_other_flags(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = trained(planted_incidents.rate_small(), tmp_path, learning_rate=0.05)
    for flags in (("rate 2x",), ("--pool", "processes"), ("--seed", "3"), ("--at", "4")):
        code, _, said = called(capsys, "fork", str(run.path), "--spike", "60", *flags)
        assert code == 2 and "`--spike` chooses the branches itself" in said
