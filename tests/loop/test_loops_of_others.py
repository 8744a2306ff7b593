"""Forks of loops as other people write them: each branch is that loop, or the fork is refused."""

import warnings
from pathlib import Path

import pytest
from forks_of_loops import FORKED, KINDS, SAME, by_hand, forked, keeps_bits, trained
from own_loops import Script
from own_loops_more import CarriedState
from own_loops_trainers import START, TRAINERS

from gradiometer import Unsupported
from gradiometer.loop import Fork

QUICK = [kind for kind in KINDS if kind is not CarriedState and kind.__name__ != "Compiled"]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", QUICK, ids=lambda kind: kind.__name__)
def test_a_branch_ends_where_the_script_itself_ends(kind: type[Script], tmp_path: Path) -> None:
    _, found = trained(kind, tmp_path, at=forked)
    for name, factor in (("go on", 1.0), ("rate 2x", 2.0)):
        end = found.of(name)[0].readouts["score"].mean
        assert end == pytest.approx(by_hand(kind, factor, 0), rel=SAME), found.notes


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_forks_and_trials_leave_the_bits_of_training(kind: type[Script], tmp_path: Path) -> None:
    assert keeps_bits(kind, tmp_path)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", TRAINERS)
def test_a_branch_ends_where_the_trainer_itself_ends(name: str, tmp_path: Path) -> None:
    pytest.importorskip("lightning")
    pytest.importorskip("transformers")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found: Fork = TRAINERS[name](tmp_path)
        expected = TRAINERS[name](tmp_path, 2.0, 1)
    assert found.step == START
    assert found.of("rate 2x")[1].readouts["score"].mean == pytest.approx(expected, rel=SAME)


@pytest.mark.filterwarnings("ignore")
def test_a_state_that_the_loop_carries_outside_of_the_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match=r"the gradient of lstm.* had norm"):
        trained(CarriedState, tmp_path, at=forked)


def test_sixteen_kinds_were_named_before() -> None:
    known = {kind.__name__ for kind in KINDS} | set(TRAINERS)
    assert len(FORKED) == 16 and known >= FORKED
