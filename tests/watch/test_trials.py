"""What forks say about the advice of findings: not tried, held, did not hold, not decided."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from finished_forks import kept
from gradiometer import Estimate, Finding, Issue, State, supervised, watch
from gradiometer.integrations.watch.observers.trials import COST, Trials
from gradiometer.loop import Effect, Fork, alternative_of
from gradiometer.loop.branch import BranchResult, Tail
from gradiometer.loop.readout import Readout
from gradiometer.loop.recorded.record import ForkRecord, Plan
from gradiometer.loop.recorded.trials import (
    alike,
    alternatives_of,
    by_late_loss,
    judged,
    with_trials,
)
from gradiometer.run import Run
from gradiometer.verdict import say
from gradiometer.verdict.words.forks import verdict_in_words
from report_run import run_in

SENTENCES = {"seen": "Seen.", "means": "Means.", "advice": "Try."}
BATCH = Finding(
    "noise", Issue.ESTIMATION, "own", State.LOOK, facts=SENTENCES, cure=("batch 2x, rate 1.29x",)
)
CUT = replace(BATCH, gauge="stationarity", cure=("cool now",))
NONE = replace(BATCH, cure=())
ENDED = Fork(
    0,
    (alternative_of("rate 2x"),),
    1,
    640,
    (
        BranchResult(
            "go on",
            0,
            640,
            20,
            640,
            1.0,
            (),
            {name: Readout(0.5) for name in ("test_loss", "test_accuracy")},
        ),
    ),
)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return run_in(tmp_path, steps=200)


def test_advice_that_was_not_tried_has_the_command_that_tries_it(run: Run) -> None:
    found, other = with_trials(run, [BATCH, NONE])
    assert say(found).tried.startswith(f"Not tested: `gradiometer fork {run.path} --advice`.")
    assert say(found).paragraphs[-1] == say(found).tried and str(say(found)).endswith(
        say(found).tried
    )
    assert other == NONE


def test_advice_that_was_tried_has_its_effect_and_if_it_held(run: Run) -> None:
    kept(
        run,
        {
            "go on": [0.5, 0.51, 0.52],
            "batch 2x, rate 1.31x": [0.6, 0.62, 0.61],
            "cool now": [0.4, 0.41, 0.42],
        },
    )
    batch, cut = with_trials(run, [BATCH, CUT])
    assert say(batch).tried.startswith(
        "Tested: after 20 updates from step 100, batch 2x, rate 1.31x is 0.10 [0.0"
    )
    assert (
        "] higher in test loss, 20% higher: 0.610 for 0.510 (fork 0001). Whether it needs more examples than forecast is seen"
        in say(batch).tried
    )
    assert say(cut).tried.startswith(
        "Tested: after 20 updates from step 100, cool now is 0.10 [0.10"
    )
    assert say(cut).tried.endswith(
        "lower in test loss, 20% lower: 0.410 for 0.510 (fork 0001). The test confirms the advice."
    )
    kept(run, {"go on": [0.5, 0.51, 0.52], "batch 2x, rate 1.29x": [0.4, 0.62, 0.51]})
    (again,) = with_trials(run, [BATCH])
    assert "no difference shown" in say(again).tried and "(fork 0002)" in say(again).tried
    assert say(again).tried.endswith("This fork does not decide if the advice is right.")


def test_each_of_several_trials_is_a_sentence(run: Run) -> None:
    kept(
        run,
        {"go on": [0.5, 0.51, 0.52], "rate 2x": [0.4, 0.41, 0.42], "rate 4x": [0.6, 0.61, 0.62]},
    )
    (rate,) = with_trials(run, [replace(CUT, cure=("rate 2x", "rate 4x"))])
    assert say(rate).tried.startswith("Tested: after 20 updates from step 100, rate 2x is")
    assert (
        ". The test confirms the advice. After 20 updates from step 100, rate 4x is"
        in say(rate).tried
    )


@pytest.mark.parametrize("settings", [{"tail": "none"}, {"left": 6_400}])
def test_a_fork_that_leans_to_small_rates_does_not_judge_advice(
    run: Run, settings: dict[str, Any]
) -> None:
    kept(run, {"go on": [0.5, 0.51, 0.52], "cool now": [0.4, 0.41, 0.42]}, **settings)
    (cut,) = with_trials(run, [CUT])
    assert (
        "lower in test loss, 20% lower: 0.410 for 0.510 (fork 0001). Its branches lean to small rates, so it does not decide"
        in say(cut).tried
    )
    kept(run, {"go on": [0.5, 0.51, 0.52], "cool now": [0.4, 0.41, 0.42]}, left=3_200)
    (cut,) = with_trials(run, [CUT])
    assert say(cut).tried.endswith("(fork 0002). The test confirms the advice.")


def test_a_baseline_with_another_readout_in_one_branch_is_no_obstacle(run: Run) -> None:
    record = kept(run, {"go on": [0.5, 0.51, 0.52], "cool now": [0.4, 0.41, 0.42]})
    first, *others = record.branches_path.read_text(encoding="utf-8").splitlines()
    renamed = "\n".join([first.replace("test_loss", "my_metric"), *others, ""])
    record.branches_path.write_text(renamed, encoding="utf-8")
    (cut,) = with_trials(run, [CUT])
    assert say(cut).tried.endswith("The test confirms the advice.")


def test_a_fork_that_has_just_begun_says_nothing_yet(run: Run) -> None:
    ForkRecord.keep(run.path, Plan(100, (alternative_of("cool now"),), 2, 640))
    (found,) = with_trials(run, [CUT])
    assert say(found).tried.startswith("Not tested")


@pytest.mark.parametrize(
    ("advice", "low", "high", "verdict"),
    [
        ("rate 0.5x", -0.2, -0.1, "The test confirms the advice."),
        ("rate 0.5x", 0.001, 0.002, "The test contradicts the advice."),
        ("rate 0.5x", -0.1, 0.001, "This fork does not decide if the advice is right."),
        (
            "batch 2x",
            0.001,
            0.004,
            "The test confirms the advice: it ends at most 1% worse, with fewer updates.",
        ),
        ("batch 2x", -0.1, -0.01, "The test confirms the advice."),
        ("batch 2x", -0.1, 0.006, "This fork does not decide if the advice is right."),
        (
            "batch 2x",
            0.006,
            0.1,
            "Whether it needs more examples than forecast is seen with `--advice`, which adds a "
            "shorter training.",
        ),
        ("cool now", 0.006, 0.1, "The test contradicts the advice: it ends more than 1% worse."),
        ("batch 0.5x", 0.001, 0.004, "The test contradicts the advice."),
        (
            "cool now",
            0.001,
            0.004,
            "The test confirms the advice: it ends at most 1% worse, so more steps at this rate gain little.",
        ),
        (
            "cool now",
            float("-inf"),
            float("inf"),
            "This fork does not decide if the advice is right.",
        ),
    ],
)
def test_a_rate_promises_a_better_end_and_what_saves_updates_one_that_is_hardly_worse(
    advice: str, low: float, high: float, verdict: str
) -> None:
    estimate = Estimate.interval(
        (low + high) / 2, low, high, level=0.9, method="made up", samples=4
    )
    effect = Effect(advice, "test_loss", estimate, estimate, None, replicates=4)
    assert verdict_in_words(judged(ENDED, alternative_of(advice), effect)) == verdict
    mirrored = Estimate.interval(
        -estimate.value, -high, -low, level=0.9, method="made up", samples=4
    )
    accuracy = Effect(
        advice, "test_accuracy", mirrored, mirrored, None, replicates=4, lower_is_better=False
    )
    assert verdict_in_words(judged(ENDED, alternative_of(advice), accuracy)) == verdict


def test_an_alternative_that_diverged_did_not_hold() -> None:
    unknown = Estimate.unknown(level=0.9, method="diverged", samples=1)
    effect = Effect("rate 9x", "test_loss", unknown, unknown, None, replicates=1, diverged=1)
    assert (
        verdict_in_words(judged(ENDED, alternative_of("rate 9x"), effect))
        == "The test contradicts the advice."
    )


@pytest.mark.parametrize(
    ("shorter", "verdict"),
    [
        (
            [0.6, 0.61, 0.6],
            "The test confirms the advice: with fewer updates it ends better than a training on 0.75 of the "
            "examples,",
        ),
        (
            [0.53, 0.54, 0.53],
            "The test contradicts the advice: it ends worse than a training on 0.75 of the examples,",
        ),
        ([0.56, 0.58, 0.55], "This fork does not decide if the advice is right."),
    ],
)
def test_a_larger_batch_that_ends_worse_is_compared_with_a_training_on_fewer_examples(
    run: Run, shorter: list[float], verdict: str
) -> None:
    kept(
        run,
        {
            "go on": [0.5, 0.51, 0.5],
            "batch 2x, rate 1.29x": [0.56, 0.57, 0.56],
            "shorter 0.75x": shorter,
        },
    )
    advice = replace(BATCH, cure=("batch 2x, rate 1.29x", "shorter 0.74x"))
    (found,) = with_trials(run, [advice])
    assert (
        verdict.replace("0.75", "0.74") in say(found).tried
        and say(found).tried.count("(fork 0001)") == 1
    )


def test_what_findings_advise_is_each_tried_once() -> None:
    assert [one.name for one in alternatives_of([BATCH, CUT, BATCH, NONE])] == [
        "batch 2x, rate 1.29x",
        "cool now",
    ]


def cut(readout: str, tail: Tail) -> Fork:
    """A fork that cuts the rate: its ends are noisy, and the second half of each branch is lower."""
    ends = {"go on": (0.40, 0.52, 0.46), "cool now": (0.41, 0.40, 0.44)}
    lower = {"go on": 0.0, "cool now": 0.1}
    results = tuple(
        BranchResult(
            name,
            place,
            640,
            20,
            640,
            1.0,
            tuple((end, 0.5 - lower[name] * (end > 320)) for end in range(20, 641, 20)),
            {readout: Readout(ends[name][place])},
        )
        for place in range(3)
        for name in ends
    )
    return Fork(100, (alternative_of("cool now"),), 3, 640, results, tail)


def test_a_cut_is_judged_by_means_over_the_second_halves_of_its_branches() -> None:
    noisy = cut("train_loss", "none")
    assert noisy.effects()[0].verdict == "open"
    (effect,) = by_late_loss(noisy).effects()
    assert effect.verdict == "better"
    assert effect.estimate.value == pytest.approx(-0.1)


@pytest.mark.parametrize("number", [5, 48, 107])
def test_the_updates_of_the_training_itself_are_a_branch_that_is_not_trained(
    tmp_path: Path, number: int
) -> None:
    losses = np.linspace(2, 1, number)
    plan = Plan(4, (alternative_of("rate 0.25x"),), 1, 640, tail="none")
    record = ForkRecord.keep(tmp_path, plan)
    record.keep_own(losses)
    (own,) = ForkRecord.open(record.path).fork.results
    assert (own.alternative, own.updates, own.seconds, own.highest) == ("go on", number, 0, 2)
    assert len(own.curve) == min(number, 48) and own.curve[-1][0] == 640
    ends = np.array([0, *(end for end, _ in own.curve)])
    means = np.array([loss for _, loss in own.curve])
    assert np.average(means, weights=np.diff(ends)) == pytest.approx(losses.mean(), rel=1e-2)
    assert own.readouts["train_loss"].mean == pytest.approx(losses[number // 2 :].mean())


def test_a_training_whose_losses_are_not_finite_is_a_branch_that_diverged(tmp_path: Path) -> None:
    plan = Plan(4, (alternative_of("rate 0.25x"),), 1, 640, tail="none")
    record = ForkRecord.keep(tmp_path, plan)
    record.keep_own(np.array([1.0, np.nan, 2.0]))
    (own,) = ForkRecord.open(record.path).fork.results
    assert own.diverged and not own.readouts


def test_the_updates_of_the_training_itself_are_no_cost_of_a_trial(tmp_path: Path) -> None:
    model = torch.nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loss = supervised(torch.nn.MSELoss())
    w = watch(model, optimizer, loss=loss, trials=0.1, out=tmp_path, quiet=True)
    trials = next(one for one in w.observers if isinstance(one, Trials))
    budget = w.budget
    (own, *_) = cut("train_loss", "none").results
    with budget.spending(COST, outside=True):
        for seconds in (0.0, 1.0):
            trials._goes_on(replace(own, seconds=seconds), 1, 2)
    assert trials._branch_updates == own.updates


def test_in_one_order_of_the_data_parts_of_the_second_half_are_compared() -> None:
    results = tuple(one for one in cut("train_loss", "none").results if one.replicate == 0)
    one = replace(cut("train_loss", "none"), results=results, replicates=1)
    assert not one.effects()[0].estimate.tells
    (effect,) = by_late_loss(one).effects()
    assert effect.estimate.samples == 6
    assert effect.estimate.value == pytest.approx(-0.1)
    short = replace(one, results=tuple(replace(each, curve=each.curve[-11:]) for each in results))
    assert by_late_loss(short).effects()[0].estimate.samples == 6
    few = replace(one, results=tuple(replace(each, curve=each.curve[-10:]) for each in results))
    assert by_late_loss(few) is few


@pytest.mark.nightly
def test_the_interval_of_one_order_covers_under_the_noise_of_batches() -> None:
    """Both losses fall alike, and every batch has noise of its own, whose size is exponential."""
    random, trials = np.random.default_rng(0), 1_000
    exact, covered = -0.1, 0
    for _ in range(trials):
        losses = np.linspace(1.0, 0.5, 48) + 0.2 * random.exponential(size=(2, 48))
        results = tuple(
            BranchResult(
                name,
                0,
                480,
                48,
                480,
                1.0,
                tuple((10 * (at + 1), float(loss)) for at, loss in enumerate(branch)),
                {"train_loss": Readout(0.0)},
            )
            for name, branch in zip(
                ("go on", "rate 4x"), (losses[0], losses[1] + exact), strict=True
            )
        )
        fork = Fork(4, (alternative_of("rate 4x"),), 1, 480, results, "none")
        (effect,) = by_late_loss(fork).effects()
        covered += effect.estimate.low <= exact <= effect.estimate.high
    # 90 % ± 3 standard errors
    assert abs(covered / trials - 0.9) < 3 * np.sqrt(0.9 * 0.1 / trials)


@pytest.mark.parametrize(("readout", "tail"), [("test_loss", "none"), ("train_loss", "linear")])
def test_held_out_examples_and_rates_that_fall_to_zero_are_judged_at_the_end(
    readout: str, tail: Tail
) -> None:
    fork = cut(readout, tail)
    assert by_late_loss(fork) is fork


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("rate 0.5x", "rate 0.52x", True),
        ("rate 0.5x", "rate 0.7x", False),
        ("batch 2x, rate 1.3x", "batch 2x, rate 1.4x", True),
        ("batch 2x, rate 1.3x", "batch 4x, rate 1.3x", False),
        ("cool now", "cool now 0.3x", False),
        ("shorter 0.75x", "shorter 0.7x", True),
        ("clip 1", "clip 1", True),
        ("clip 1", "rate 1x", False),
    ],
)
def test_factors_may_differ_a_little(one: str, other: str, same: bool) -> None:
    assert alike(alternative_of(one), alternative_of(other)) is same


@pytest.mark.parametrize(
    ("mode", "said"),
    [
        (
            "apart",
            "Not tested. To test it, add `print(w.fork(batches=loader, "
            "alternatives=['batch 2x, rate 1.29x'], "
            "horizon='end', at={at}))` as the last line of the `with` block. It needs `loss=` and "
            "`checkpoints=3` in `watch`, and `w.step(loss, batch)`.",
        ),
        ("given", "Not tested."),
    ],
)
def test_a_watched_run_has_the_line_for_its_program(run: Run, mode: str, said: str) -> None:
    problem = {"description": "a loop of its own, watched"}
    run.manifest.update({"problem": problem, "mode": mode})
    (found,) = with_trials(run, [BATCH])
    assert run.status == "finished"
    assert say(found).tried == said.format(at=run.steps // 2)
    run.events.pop()
    (found,) = with_trials(run, [BATCH])
    assert ("at=" in say(found).tried) is False
