"""A fork of a run outranks what triage reads: it takes a claim back, or shows its cure."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gradiometer.loop import ForkRecord
from gradiometer.run import Run
from gradiometer.verdict import Claim, Claimed
from gradiometer.verdict.triage.tried import as_tried
from report_run import run_in
from test_trials import kept

LOW = Claimed(Claim.RATE_LOW, {"travel": 0.1}, ("rate 4x",))
NO_DECAY = Claimed(Claim.NO_DECAY, {"movement": 0.01}, ("cool now",), ("stopped_early",))
STOPPED = Claimed(Claim.STOPPED_EARLY, {"fell": 0.2}, ("train for 800 steps",), ("no_decay",))
FAULT = Claimed(Claim.DROPOUT, {"dropped": 0.9}, ("nn.Dropout(0.1)",))


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return run_in(tmp_path, steps=200)


def fork(run: Run, change: str, *ends: float, **settings: Any) -> ForkRecord:
    """A finished fork: the baseline ended at about 0.5."""
    return kept(run, {"go on": [0.5, 0.51, 0.52], change: list(ends)}, **settings)


def test_without_forks_claims_stay(run: Run) -> None:
    assert as_tried((FAULT, LOW), run) == (FAULT, LOW)


def test_a_cure_that_ended_worse_takes_its_claim_back(run: Run) -> None:
    fork(run, "rate 4x", 0.7, 0.71, 0.72)
    assert as_tried((FAULT, LOW), run) == (FAULT,)


def test_a_cure_that_ended_better_is_shown(run: Run) -> None:
    fork(run, "rate 4x", 0.3, 0.312, 0.318)
    (claimed,) = as_tried((LOW,), run)
    effect = claimed.numbers["fork"]
    assert claimed.claim is Claim.RATE_LOW and not isinstance(effect, float)
    assert effect.high < 0 and np.isclose(effect.value, -0.2)


def test_the_newest_fork_counts(run: Run) -> None:
    fork(run, "rate 4x", 0.7, 0.71, 0.72)
    fork(run, "rate 4x", 0.3, 0.312, 0.318, seed=1)
    assert [each.claim for each in as_tried((LOW,), run)] == [Claim.RATE_LOW]


def test_a_short_fork_takes_nothing_back(run: Run) -> None:
    fork(run, "rate 4x", 0.7, 0.71, 0.72, tail="none")
    assert as_tried((LOW,), run) == (LOW,)


def test_a_fork_tells_confused_claims_apart(run: Run) -> None:
    assert len(as_tried((NO_DECAY, STOPPED), run)) == 2
    fork(run, "cool now", 0.3, 0.312, 0.318)
    assert [each.claim for each in as_tried((NO_DECAY, STOPPED), run)] == [Claim.NO_DECAY]


def test_without_a_gain_of_cooling_the_other_of_two_confused_claims_stays(run: Run) -> None:
    fork(run, "cool now", 0.7, 0.71, 0.72)
    assert [each.claim for each in as_tried((NO_DECAY, STOPPED), run)] == [Claim.STOPPED_EARLY]
