"""What triage reads off a record: strides and reach, and the level of a guess."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from gradiometer import watch
from gradiometer.verdict.triage.level import Known, level_of
from gradiometer.verdict.triage.signs import Signs
from made_up_signs import LOOKS, healthy, moved, tensors


def test_small_weights_count_with_half_of_their_usual_size() -> None:
    small = tensors(0.3, 1.0, 0.3)
    without, with_rows = (
        healthy(weights=small, movement=tensors(0.002, 0.01, 0.002), facts=facts)
        for facts in ({}, {"rows": [10, 10, 10]})
    )
    usual = 0.29 * np.sqrt(10)
    assert with_rows.reach == pytest.approx(without.reach * 0.3 / usual)
    assert with_rows.travel == without.travel


def test_strides_do_not_depend_on_depth_width_and_momentum() -> None:
    """Twice the layers at half of the movement, four times the width, and the longer path of noise
    without momentum. The reach is that of one layer."""
    base = healthy(movement=moved(0.004))
    facts = {"sizes": [100] * 4, "axes": [2] * 4, "layers": ["Linear"] * 4, "tensors": list("abcd")}
    four = healthy(
        movement=np.tile([0.006] * 4, (len(LOOKS), 1)),
        weights=np.tile([3.0] * 4, (len(LOOKS), 1)),
        facts=facts,
    )
    assert four.strides == pytest.approx(base.strides)
    assert four.reach == pytest.approx(base.reach / 2)
    wide = healthy(movement=moved(0.002), facts={"sizes": [256**2, 10, 256**2]})
    assert wide.strides == pytest.approx(base.strides)
    assert wide.reach == pytest.approx(base.reach)
    plain = healthy(movement=moved(0.004 * np.sqrt(19)), momentum=0.0)
    assert plain.strides == pytest.approx(base.strides)
    assert plain.reach == pytest.approx(base.reach)


def test_the_reach_is_that_of_the_layer_that_went_furthest() -> None:
    """Of three layers at 1, 3 and 2 % of their size a step, 3 % counts, wherever it is known."""
    facts = {"sizes": [100] * 3, "axes": [2] * 3, "layers": ["Linear"] * 3}
    steps = tensors(0.03, 0.06, 0.1)
    sizes = tensors(3.0, 2.0, 5.0)
    found = healthy(movement=steps, weights=sizes, facts=facts, momentum=0.0)
    assert found.reach == pytest.approx(0.03 * 400)
    steps[::2, 1] = np.nan
    assert found.reach == pytest.approx(0.03 * 400)
    embedded = replace(found, facts={**found.facts, "layers": ["Linear", "Embedding", "Linear"]})
    assert embedded.reach == pytest.approx(0.02 * 400)
    unknown = healthy(movement=tensors(np.nan, np.nan, np.nan))
    assert np.isnan(unknown.reach) and np.isnan(Signs(losses=np.ones(5)).reach)


def test_the_leap_is_the_root_of_the_sum_of_squares_over_layers() -> None:
    """Two layers that move by 30 and 40 % of their size, and a step without finite numbers."""
    movement = tensors(0.09, 0.01, 0.12)
    movement[7] *= 10
    movement[9] = np.inf
    assert healthy(movement=movement, momentum=0.0).leap == pytest.approx(0.5)
    assert Signs(losses=np.ones(5)).leap == 0


def test_the_usual_reach_grows_as_the_root_of_the_steps_up_to_400() -> None:
    long, short = healthy(), healthy(losses=np.ones(100))
    assert long.usual_reach() == 8 and short.usual_reach() == 4
    assert long.usual_reach(100) == 4 and long.usual_reach(4_000) == 8
    assert healthy(family="adaptive").usual_reach() == 12


def test_the_level_is_the_variance_of_the_targets_for_a_squared_error() -> None:
    losses = np.full(100, 2.0)
    signs = Signs(
        losses=losses,
        looks=np.array([10, 20]),
        single={"as_squared": np.array([2.0, 2.0]), "target_variance": np.array([3.9, 4.0])},
    )
    assert level_of(signs).value == 4.0 and level_of(signs).known_by is Known.TARGETS


def test_the_level_is_the_loss_of_the_first_steps_if_nothing_is_known() -> None:
    assert level_of(Signs(losses=np.array([3.0, 2.9, 3.1, 3.0, 3.0, 1.0]))).known_by is Known.START


def test_the_rates_of_a_run_that_goes_on_reach_to_its_last_step(tmp_path: Path) -> None:
    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=3_000)
    with watch(model, optimizer, out=tmp_path, page=False, quiet=True, gauges=[]) as w:
        for step in range(1, 3_001):
            optimizer.zero_grad()
            loss = model(torch.ones(4, 2)).square().mean()
            loss.backward()
            w.step(loss)
            optimizer.step()
            scheduler.step()
            if step in (1_700, 2_700, 3_000):
                assert w.run is not None
                # settings are read at least once in 64 steps
                expected = 0.1 * (1 - step / 3_000)
                assert abs(Signs.of(w.run).rates[-1] - expected) <= 0.1 * 64 / 3_000
