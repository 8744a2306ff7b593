"""The finding about spikes: its cause with evidence, in a run, on its page and in a log."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from gradiometer import Finding, Run, diagnose
from gradiometer.logs import Log, log_findings
from gradiometer.logs.log import Column
from gradiometer.measurement import State
from gradiometer.report.page.page import render
from gradiometer.run import Configuration
from gradiometer.run.folder import RunFolder
from gradiometer.verdict.words.say import say

STEPS = 1200
GAUGES = ("noise", "batch_sharpness")
Spiky = dict[int, list[float]]
"""The step at which losses are replaced, and their values."""

ONE_BATCH: Spiky = {700: [6.0]}
RISING: Spiky = {700: [2.0, 3.5, 6.0, 5.0, 4.5, 4.0, 3.0, 2.5]}
AT_ONCE: Spiky = {700: [6.0, 5.0, 4.0, 3.0]}


def losses_with(spikes: Spiky, steps: int = STEPS) -> np.ndarray:
    losses = 1 + 0.05 * np.random.default_rng(0).standard_normal(steps)
    for step, values in spikes.items():
        losses[step : step + len(values)] = values
    return losses


def run_with(
    folder: Path, spikes: Spiky, sharpness: float = 10.0, loud: tuple[int, int] = (0, 0)
) -> Run:
    """A run with two gauges at every 50th step. In the loud steps the second layer's gradient is
    ten times as long."""
    manifest = {
        "configuration": Configuration(learning_rate=0.1, gauges=",".join(GAUGES)).to_dict(),
        "sampling": {"draw": "replacement", "examples": 1000},
        "layers": ["first.weight", "second.weight"],
    }
    made = RunFolder.create(folder, "spiky", manifest)
    lines = [{"kind": "losses", "from": 0, "values": losses_with(spikes).tolist()}]
    for step in range(0, STEPS, 50):
        factor = 100.0 if loud[0] <= step < loud[1] else 1.0
        noise = {
            "gradient_variance": [3.2, 3.2 * factor],
            "gradient_norm_squared": [0.1, 0.1 * factor],
        }
        moments = {"noise": noise, "batch_sharpness": {"curvature": sharpness, "norm_squared": 1.0}}
        for gauge in GAUGES:
            place = {"gauge": gauge, "step": step, "batch_size": 32, "learning_rate": 0.1}
            lines.append({"kind": "reading", **place, "moments": moments[gauge]})
    made.readings_path().write_text("".join(json.dumps(line) + "\n" for line in lines))
    return Run.open(made.path)


def finding(run: Run) -> Finding:
    (found,) = (each for each in diagnose(run).findings if each.gauge == "spikes")
    return found


def log_finding(spikes: Spiky, *, spacing: int = 1, **columns: np.ndarray) -> Finding | None:
    steps = np.arange(STEPS) * spacing
    columns = {"loss": losses_with(spikes), **columns}
    log = Log(
        "made", "a test", {name: Column(name, steps, values) for name, values in columns.items()}
    )
    return next((each for each in log_findings(log) if each.gauge == "log_spikes"), None)


def test_a_high_loss_of_one_batch_alone_is_this_batch(tmp_path: Path) -> None:
    found = finding(run_with(tmp_path, ONE_BATCH))
    assert found.state is State.LOOK
    assert (
        say(found).seen
        == "The loss spiked at step 700: it rose from 1.01 to 6.00 and came back after 1 step."
    )
    assert say(found).means.startswith("This batch: ") and "had the usual loss" in say(found).means
    assert "the batch of step 700" in say(found).advice and "1 of 50" in say(found).caveat


def test_a_loss_that_rises_over_many_batches_is_an_instability(tmp_path: Path) -> None:
    found = finding(run_with(tmp_path, RISING))
    assert (
        say(found).means.startswith("Instability: ")
        and "high on 7 other batches" in say(found).means
    )
    assert (
        "from 1.01 to 6.00 and came back after 8 steps" in say(found).seen
        and "learning rate" in say(found).advice
    )


def test_a_jump_that_decays_cannot_be_told(tmp_path: Path) -> None:
    found = finding(run_with(tmp_path, AT_ONCE))
    assert "cannot tell if this batch or an instability" in say(found).means
    assert (
        "before step 700, once without this batch and once with half of the learning rate"
        in say(found).advice
    )


def test_the_nearest_sharpness_is_compared_with_its_edge(tmp_path: Path) -> None:
    """η times 10 is 1, half of the edge; η times 30 is beyond it."""
    below = finding(run_with(tmp_path, RISING))
    assert (
        "At step 700, η times the batch sharpness was 1.00, 0.50 of its edge 2.00 (one reading)."
        in say(below).means
    )
    above = finding(run_with(tmp_path, RISING, sharpness=30.0))
    assert (
        "was 3.00, 1.5 of its edge 2.00 (one reading), which speaks for an instability."
        in say(above).means
    )


def test_the_layer_whose_gradient_rose_is_named_only_if_one_did(tmp_path: Path) -> None:
    found = finding(run_with(tmp_path, RISING, loud=(700, 710)))
    assert (
        "At step 700, the gradient of second.weight was 10 times as long as usual, the most of all"
        in say(found).means
    )
    assert "of all layers" not in say(finding(run_with(tmp_path, RISING))).means


def test_a_spike_that_lasts_to_the_end_asks_for_action(tmp_path: Path) -> None:
    found = finding(run_with(tmp_path, {STEPS - 12: np.linspace(2, 6, 12).tolist()}))
    assert found.state is State.ACT and "has not come back yet" in say(found).seen


def test_a_run_without_a_spike_has_no_such_finding(tmp_path: Path) -> None:
    run = run_with(tmp_path, {})
    assert diagnose(run).spikes == () and not any(
        each.gauge == "spikes" for each in diagnose(run).findings
    )


@pytest.mark.slow
def test_the_page_marks_the_spikes_and_has_the_finding(tmp_path: Path) -> None:
    run = run_with(tmp_path, {**ONE_BATCH, 300: [7.0], 900: [5.0]})
    page = render(run, diagnose(run))
    assert "The loss spiked at steps 300, 700 and 900" in page
    assert "spiked 3 times, at steps 300, 700 and 900" in page
    for step, rise in (
        (300, r"0\.9\d+ to 7.00"),
        (700, r"1\.0\d+ to 6.00"),
    ):
        assert re.search(rf'{{"step":{step},"interval":"spike from {rise}"}}', page)
    assert '{"at":900,"label":"spike, step 900"}' in page  # the clearest one
    (row,) = (row for row in page.split('<details class="row') if "Did the loss spike?" in row)
    assert 'data-chart="spike"' in row
    quiet = run_with(tmp_path, {})
    assert 'data-chart="spike"' not in render(quiet, diagnose(quiet))
    assert "spike from" not in render(quiet, diagnose(quiet))


def test_the_doctor_finds_spikes_and_says_what_a_mean_over_steps_hides() -> None:
    alone, averaged = log_finding(ONE_BATCH), log_finding(ONE_BATCH, spacing=10)
    assert (
        alone is not None
        and say(alone).means.startswith("This batch: ")
        and say(alone).seen.startswith("loss spiked at")
    )
    assert averaged is not None and "at step 7,000" in say(averaged).seen
    assert (
        "cannot tell" in say(averaged).means
        and "a mean over 10 steps of the log" in say(averaged).means
    )
    rising = log_finding(RISING, spacing=10)
    assert (
        rising is not None
        and "Instability: " in say(rising).means
        and "several values of the log" in say(rising).means
    )
    assert log_finding({}) is None


def test_a_rise_of_the_logged_rate_explains_a_rise_of_the_loss() -> None:
    rate = np.where(np.arange(STEPS) < 699, 0.01, 0.1)
    assert log_finding(RISING, learning_rate=rate) is None
    assert log_finding(RISING, learning_rate=np.full(STEPS, 0.1)) is not None


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2, 5, 7])
def test_the_steps_of_many_spikes_are_shortened(tmp_path: Path, count: int) -> None:
    found = finding(run_with(tmp_path, {100 + 140 * place: [5.0] for place in range(count)}))
    listed = {
        1: "at step 100:",
        2: "at steps 100 and 240.",
        5: "at steps 100, 240, 380, 520 and 660.",
        7: "7 times, at steps 100, 240, 380, 520, 660 and 2 more.",
    }
    assert listed[count] in say(found).seen
