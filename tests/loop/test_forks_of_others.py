"""Forks of loops as other people write them: each branch is that loop, or the fork is refused."""

import warnings
import zlib
from pathlib import Path
from typing import Any

import pytest
import torch
from forks_of_loops import FORKED, KINDS, SAME, by_hand, forked, keeps_bits, trained
from own_loops.more import ByHand, CarriedState
from own_loops.plain import BATCH, Checkpointing, MovingAverage, Script, TwoOptimizers
from own_loops.trainers import START, TRAINERS

from gradiometer import BadArgument, Unsupported
from gradiometer.loop import Fork

QUICK = {"Clipping", "TwoOptimizers", "Checkpointing", "Lambdas", "ByHand"}
"""The others take most of the time."""


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, marks=[] if kind.__name__ in QUICK else pytest.mark.slow)
        for kind in KINDS
        if kind is not CarriedState and kind.__name__ != "Compiled"
    ],
    ids=lambda kind: kind.__name__,
)
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
@pytest.mark.parametrize("kind", [Checkpointing, ByHand, MovingAverage, TwoOptimizers])
def test_a_loop_that_is_over_is_forked_from_a_state_that_was_kept(
    kind: type[Script], tmp_path: Path
) -> None:
    def at(w: Any, script: Script) -> Fork:
        found: Fork = w.fork(
            at=34,
            batches=script.batches,
            alternatives=["rate 2x"],
            replicates=1,
            horizon="8 updates",
            tail="none",
            evaluate=lambda model: {"score": script.score(model)},
            **script.asked,
        )
        with pytest.raises(BadArgument, match=r"`at` is 3, and no state is kept .* 16, 32"):
            w.fork(at=3, batches=script.batches, alternatives=["rate 2x"])
        with pytest.raises(BadArgument, match="`at` must be a whole number, got True"):
            w.fork(at=True, batches=script.batches, alternatives=["rate 2x"])
        return found

    _, found = trained(kind, tmp_path, at=at, checkpoints=2)
    # a scheduler plans more than the loop has made
    planned = 120 if kind is Checkpointing else START
    assert found.step == 32 and found.left == (planned - 32) * BATCH
    script = kind()
    order = script.updates(0)
    for _ in range(32):
        script.update(next(order), lambda *_: None)
    order = script.updates(zlib.crc32(b"0/data/0"))
    torch.manual_seed(zlib.crc32(b"0/0/draws"))
    for _ in range(8):
        script.multiply(2.0)
        script.update(next(order), lambda *_: None)
    end = found.of("rate 2x")[0].readouts["score"].mean
    assert end == pytest.approx(script.score(script.model.eval()), rel=SAME)


@pytest.mark.filterwarnings("ignore")
def test_a_state_that_the_loop_carries_outside_of_the_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match=r"the gradient of lstm.* had norm"):
        trained(CarriedState, tmp_path, at=forked)


def test_sixteen_kinds_were_named_before() -> None:
    known = {kind.__name__ for kind in KINDS} | set(TRAINERS)
    assert len(FORKED) == 16 and known >= FORKED
