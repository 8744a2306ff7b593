"""What findings say of advice like theirs is what benchmarks/advice.py has kept, and it is scored
as it says."""

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from advice import best_of, ratio_at, table, verdict_on_number, written

from gradiometer import Estimate, Finding, Issue, State
from gradiometer.loop.recorded.advice_scores import kept_scores
from gradiometer.loop.recorded.trials import kind_of_advice, with_trials
from gradiometer.verdict import say
from gradiometer.verdict.words.forks import record_of
from report_run import run_in

KINDS = {
    "a larger batch under SGD": (("batch 2x, rate 1.29x",), "sgd"),
    "a smaller batch under SGD": (("batch 0.5x, rate 0.8x",), "sgd"),
    "a larger batch under Adam": (("batch 2x, rate 0.979x", "batch 2x, rate 1.55x"), "adaptive"),
    "a smaller batch under Adam": (
        ("batch 0.5x, rate 0.646x", "batch 0.5x, rate 1.02x"),
        "adaptive",
    ),
    "a cut of the rate": (("cool now",), "sgd"),
    "a smaller rate": (("rate 0.5x",), "sgd"),
    "": ((), "sgd"),
}


def interval(value: float, low: float, high: float) -> Estimate:
    return Estimate.interval(value, low, high, level=0.9, method="test", samples=4)


@pytest.mark.parametrize(("kind", "given"), KINDS.items())
def test_advice_has_a_kind(kind: str, given: tuple[tuple[str, ...], str]) -> None:
    assert kind_of_advice(*given) == kind


def test_findings_cite_what_the_benchmark_has_kept(tmp_path: Path) -> None:
    run = run_in(tmp_path, steps=200)
    finding = Finding(
        "noise",
        Issue.ESTIMATION,
        "own",
        State.LOOK,
        facts={"seen": "Seen."},
        cure=("batch 2x, rate 1.29x",),
    )
    (found,) = with_trials(run, [finding])
    scores = [score for score in kept_scores() if score["kind"] == "a larger batch under SGD"]
    counts = Counter((score["what"], score["verdict"]) for score in scores)
    total = sum(count for (what, _), count in counts.items() if what == "advice")
    assert total >= 8 and len({score["case"] for score in kept_scores()}) >= 12
    assert f"Such advice held in {counts['advice', 'held']} of {total} trials" in say(found).tried
    assert say(found).tried.endswith(": benchmarks/advice.py.")


def test_no_kind_that_is_advised_fails_in_a_third_of_its_cases() -> None:
    for kind, what in {(score["kind"], score["what"]) for score in kept_scores()}:
        verdicts = [
            score["verdict"]
            for score in kept_scores()
            if (score["kind"], score["what"]) == (kind, what)
        ]
        assert 2 * verdicts.count("did not hold") <= verdicts.count("held"), (kind, what)


def test_a_kind_that_was_never_followed_has_no_record() -> None:
    assert (
        record_of("a smaller rate", []) == ""
        and kind_of_advice(["batch 2x, rate 2x"], "other") == ""
    )
    scores = [
        {"kind": "k", "what": what, "verdict": verdict}
        for what, verdict in (
            ("advice", "held"),
            ("advice", "did not hold"),
            ("advice", "open"),
            ("number", "held"),
        )
    ]
    assert record_of("k", scores) == (
        "Such advice held in 1 of 3 trials (1 undecided), and its forecast number in 1 of 1 "
        "trials: benchmarks/advice.py."
    )
    undecided = {"kind": "k", "what": "number", "verdict": "open"}
    assert "number" not in record_of("k", [*scores[:3], undecided])


@pytest.mark.parametrize(
    ("forecast", "measured", "verdict"),
    [
        ((1.2, 1.1, 1.3), (1.45, 1.4, 1.5), "held"),
        ((1.2, 1.1, 1.6), (1.58, 1.5, 1.7), "held"),
        ((1.2, 1.1, 1.3), (1.55, 1.5, 1.6), "did not hold"),
        ((1.2, 1.1, 1.3), (1.55, 0.9, 2.6), "open"),
        ((1.2, 1.1, 1.3), (4.0, 2.0, 8.0), "did not hold"),
        ((1.2, 1.1, 1.3), (math.nan, -math.inf, math.inf), "open"),
        ((1.2, 0.2, 3.0), (1.0, 0.3, 2.9), "held"),
    ],
)
def test_a_number_holds_inside_its_interval_or_within_a_quarter(
    forecast: tuple[float, ...], measured: tuple[float, ...], verdict: str
) -> None:
    assert verdict_on_number(interval(*forecast), interval(*measured)) == verdict


def test_the_ratio_of_examples_is_read_off_the_losses_of_going_on() -> None:
    lengths = np.log([100, 200, 400])
    losses = np.array([1.0, 0.9, 0.8])
    assert math.exp(ratio_at(lengths, losses, math.log(300), 0.9)) == pytest.approx(1.5)
    assert math.isnan(ratio_at(lengths, losses, math.log(300), 0.7))


def test_the_best_of_several_ends_counts_and_the_table_has_all() -> None:
    assert best_of(["did not hold", "open"]) == "open" and best_of(["open", "held"]) == "held"
    scores = list(kept_scores())
    assert len([line for line in table(scores) if line.startswith("| ")]) > len(scores)
    assert written(scores).count("\n") == len(scores) + 2
