"""Gauges that run the model on several processes: each measures its share of the batch, and the
whole is that of one."""

import sys
from pathlib import Path

import numpy as np
import pytest

from gradiometer import Objective, Run
from gradiometer.drift import Curvature
from rank_curvature import BATCH, DATA, STEPS, loop, losses, network
from several_ranks import run_all

pytestmark = pytest.mark.slow  # several processes are started

RANKS = [sys.executable, str(Path(__file__).parents[1] / "support" / "rank_curvature.py")]


@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_measure_the_curvature_of_the_whole_batch(ranks: int, tmp_path: Path) -> None:
    run_all(ranks, *RANKS, "alike", str(tmp_path))
    loop(tmp_path, "one", ["batch_sharpness"])
    one = Run.open(tmp_path / "one-1").series("batch_sharpness")
    steps = {"several-1": [15, 31], "several-2": [15, 31], "alone": [*range(STEPS)]}
    for name, at in steps.items():
        several = Run.open(tmp_path / "alike" / f"{name}-1").series("batch_sharpness")
        assert several.steps.tolist() == at and set(several.batch_size) == {BATCH}
        for moment, values in one.moments.items():
            assert several.moments[moment] == pytest.approx(values[at], rel=1e-10)
    curvature = Curvature(Objective(network(), losses), [DATA])
    standing = Run.open(tmp_path / "alike" / "standing-1").series("curvature_along_gradient")
    found = standing.moments["gradient_curvature"]
    assert abs(found.mean() - curvature.along_gradient()) < 4 * found.std() / np.sqrt(len(found))
    assert found.std() / np.sqrt(len(found)) < 0.2 * curvature.along_gradient()


@pytest.mark.parametrize("ranks", [2, 4])
def test_a_rank_that_cannot_measure_its_share_holds_no_other_up(ranks: int, tmp_path: Path) -> None:
    run_all(ranks, *RANKS, "failing", str(tmp_path))
