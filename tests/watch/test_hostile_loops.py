"""Loops that keep state in their forward, loss, hooks or backward, drawn at random: training ends
with the bits of the plain loop, or a sentence names what cannot be put back."""

import os
import random
import time
from pathlib import Path

import pytest

from hostile_loops import HostileLoop

# The seed of the nightly draws changes from day to day. The names of the tests show it.
SEED = int(os.environ.get("HOSTILE_SEED", time.strftime("%Y%m%d")))

# Loops that ended with other bits before they were drawn here, or that were refused needlessly.
FOUND = (
    HostileLoop("cache", "backward", 0, "batches", "loss_change", 1, "none", "SGD"),
    HostileLoop("frozen", "closure of the loss", 0, "loss", "step_drift", 1, "incident", "AdamW"),
    HostileLoop("depth", "hook", 5, "two lines", "noise,batch_sharpness", 2, "fork", "AdamW"),
)


def faults(seed: str, count: int, folder: Path) -> list[str]:
    """What is wrong with so many loops."""
    draws = random.Random(seed)
    loops = [HostileLoop.draw(draws) for _ in range(count)]
    found = [loop.fault(folder / str(place)) for place, loop in enumerate(loops)]
    return [f"draws of {seed!r}: {fault}" for fault in found if fault]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("part", range(6))
def test_no_drawn_loop_ends_with_other_bits_in_silence(part: int, tmp_path: Path) -> None:
    assert not faults(f"quick {part}", 6, tmp_path)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("loop", FOUND, ids=lambda loop: loop.kind)
def test_a_loop_that_was_wrong_once_ends_with_its_bits(loop: HostileLoop, tmp_path: Path) -> None:
    assert not loop.fault(tmp_path)


@pytest.mark.nightly
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("draws", [f"{SEED} {part}" for part in range(40)])
def test_none_of_two_thousand_drawn_loops_ends_with_other_bits_in_silence(
    draws: str, tmp_path: Path
) -> None:
    assert not faults(draws, 50, tmp_path)
