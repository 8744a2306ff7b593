"""What triage reads off a record: strides and reach, and the level of a guess."""

import numpy as np
import pytest

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


def test_reach_does_not_depend_on_depth_width_and_momentum() -> None:
    """Twice the layers at half of the movement, four times the width, and the longer path of noise
    without momentum."""
    base = healthy(movement=moved(0.004))
    facts = {"sizes": [100] * 4, "axes": [2] * 4, "layers": ["Linear"] * 4, "tensors": list("abcd")}
    four = healthy(
        movement=np.tile([0.006] * 4, (len(LOOKS), 1)),
        weights=np.tile([3.0] * 4, (len(LOOKS), 1)),
        facts=facts,
    )
    assert four.reach == pytest.approx(base.reach)
    wide = healthy(movement=moved(0.002), facts={"sizes": [256**2, 10, 256**2]})
    assert wide.reach == pytest.approx(base.reach)
    plain = healthy(movement=moved(0.004 * np.sqrt(19)), momentum=0.0)
    assert plain.reach == pytest.approx(base.reach)


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
