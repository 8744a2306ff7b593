"""The advice about the batch under Adam and its kind."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from gradiometer import BadArgument
from gradiometer.estimation import PreconditionedNoise
from gradiometer.measurement import (
    Draw,
    Estimate,
    Reading,
    Sampling,
    Series,
    State,
)
from gradiometer.verdict import say

FRESH = Sampling(Draw.FRESH)


def finding(
    scale: float,
    batch_size: int = 8,
    rates: Callable[[int], float] = lambda step: 1e-3,
    **asked: Any,
) -> Any:
    gauge = PreconditionedNoise(**asked)
    readings = [
        Reading(
            gauge.name,
            i,
            batch_size,
            rates(i),
            {"variance": [scale + i % 3 - 1], "norm_squared": [1.0]},
        )
        for i in range(60)
    ]
    return gauge.judge(gauge.estimate(Series.of(readings, FRESH)))


def test_the_advice_is_another_batch_with_a_bracket_of_rates() -> None:
    below, above = finding(115.0), finding(115.0, batch_size=400)
    assert below.state is above.state is State.LOOK
    assert say(below).seen.startswith("The batch is small: the preconditioned noise scale is 115 [")
    assert say(below).seen.endswith(", 14 times B = 8.")
    assert say(below).advice.startswith(
        "`B = 16` with a learning rate of 1.0 to 1.5 times the present one, if wall time"
    )
    assert say(above).advice.startswith(
        "`B = 200` with a learning rate of 0.67 to 1.0 times the present one, if examples"
    )
    assert "within a factor of 2" in say(below).caveat and "12 of 13" in say(below).caveat


def test_nearer_than_its_validity_no_batch_is_advised() -> None:
    for batch_size in (60, 150):
        near = finding(100.0, batch_size=batch_size)
        assert (
            near.state is State.OK
            and say(near).advice == ""
            and "only within a factor of 2" in say(near).means
        )


def test_without_an_upper_bound_a_batch_close_below_the_scale_is_not_said_to_be_right() -> None:
    estimates = {"preconditioned_batch_size": Estimate.exact(32.0, unit="examples")}
    for high, state in ((math.inf, State.CANNOT_TELL), (90.0, State.OK)):
        scale = Estimate.interval(60.0, 36.0, high, level=0.9, method="Fieller", samples=60)
        found = PreconditionedNoise().judge({**estimates, "preconditioned_noise_scale": scale})
        assert found.state is state and say(found).advice == ""
    found = PreconditionedNoise().judge(
        {**estimates, "preconditioned_noise_scale": replace(scale, low=65.0, high=math.inf)}
    )
    assert found.state is State.LOOK, "outside the factor of 2 there is advice"


def test_in_a_cool_down_no_batch_is_advised() -> None:
    """But after a drop that has come to rest, and in a warm-up."""
    falling = finding(100.0, rates=lambda step: 1e-3 * (1 - step / 60))
    assert (
        falling.state is State.CANNOT_TELL
        and say(falling).advice == ""
        and "cool-down" in say(falling).means
    )
    assert "0.017 of its peak" in say(falling).means
    for rates in (lambda step: 1e-3 if step < 10 else 1e-4, lambda step: 1e-5 * (step + 1)):
        assert finding(100.0, rates=rates).state is State.LOOK


def test_in_tokens_the_earlier_value_is_multiplied_too() -> None:
    readings = [
        Reading(
            "preconditioned_noise",
            i,
            8,
            1e-3,
            {"variance": [2.0 + i], "norm_squared": [1.0 + 0.1 * (i % 3)]},
        )
        for i in range(200)
    ]
    series = replace(Series.of(readings, FRESH), newest=True)
    scales = [
        PreconditionedNoise(tokens=tokens).estimate(series)["preconditioned_noise_scale"]
        for tokens in (None, 100)
    ]
    assert scales[0].earlier is not None and scales[1].earlier == (
        scales[0].earlier[0],
        100 * scales[0].earlier[1],
    )


def test_in_tokens_scale_and_batch_are_multiplied_and_the_advice_is_in_examples() -> None:
    found = finding(115.0, tokens=100)
    assert say(found).seen.startswith(
        "The batch is small: the preconditioned noise scale is 11,500 ["
    )
    assert say(found).seen.endswith(", 14 times B = 800 tokens.")
    assert say(found).advice.startswith("`B = 16` with")
    with pytest.raises(
        BadArgument, match="`tokens` must be the number of tokens in an example, at least 1, got 0"
    ):
        PreconditionedNoise(tokens=0)
