"""The looks of `--cool` cost what the budget pays for, by count."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from test_cooling import decisions, events, quadratic, settings

from gradiometer import BadArgument
from gradiometer.measurement import Objective
from gradiometer.train import train
from gradiometer.train.cooling import Cooling, cost_of_looks, paid_examples


@pytest.mark.parametrize(
    ("share", "length", "count"),
    [
        (None, (10, 1), 2048),
        (0.02, (14_000, 128), 128),
        (0.02, (200_000, 128), 2048),
        (0.02, (21_000, 32), 64),
    ],
)
def test_half_of_the_budget_pays_for_the_looks(
    share: float | None, length: tuple[int, int], count: int
) -> None:
    assert paid_examples(share, length, needed=True) == count


def test_a_test_that_the_budget_does_not_pay_for_is_refused_where_it_is_all_that_was_asked_for(
    tmp_path: Path,
) -> None:
    with pytest.raises(
        BadArgument, match=r"a `budget` of 0\.02 in 800 steps of 10 examples: set `every`, which"
    ):
        train(quadratic(), settings(cool="watch", budget=0.02, every=None), tmp_path)
    with pytest.raises(
        BadArgument, match=r"in 900 steps of 32 examples: set `budget` = 0\.45 or more, or `every`"
    ):
        paid_examples(0.02, (900, 32), needed=True)
    assert paid_examples(0.45, (900, 32), needed=True) == 64
    run = train(quadratic(), settings(budget=0.02, every=None, epochs=2, cool_budget=0.0), tmp_path)
    assert not events(run, "stationarity") and decisions(run)


def test_the_looks_of_a_run_cost_as_many_gradients_as_the_budget_was_asked_for() -> None:
    """By count: of 6,400 steps, whose first block begins at step 100."""
    problem = quadratic()
    cooling = Cooling(
        Objective(problem.model(), problem.loss), problem.train, (6400, 10), acts=True, share=0.9
    )
    calls = {"loss": 0, "gradient": 0, "gradients": 0}
    for name in calls:
        counted = getattr(cooling.probe, name)

        def call(*given: Any, name: str = name, counted: Any = counted) -> Any:
            calls[name] += 1
            return counted(*given)

        setattr(cooling.probe, name, call)
    point = [torch.zeros(3, dtype=torch.float64)]
    looks = [event for step in range(1, 6401) for event in cooling.observe(point, 0.3, step)]
    assert len(looks) == 9 and (calls["gradients"], calls["gradient"]) == (9, 24)
    steps = calls["gradient"] + calls["loss"] / 3 + 8 * calls["gradients"]
    assert steps == pytest.approx(cost_of_looks(64, 100), rel=0.02)


def test_a_test_that_passes_over_updates_and_continues_from_a_checkpoint_finds_the_same() -> None:
    problem = quadratic()
    whole, part, resumed = (
        Cooling(Objective(problem.model(), problem.loss), problem.train, (6400, 10), acts=True)
        for _ in range(3)
    )
    draw = torch.Generator().manual_seed(0)
    points = [[torch.randn(3, dtype=torch.float64, generator=draw)] for _ in range(3000)]
    rates = [0.3] * 700 + [0.03] * 2300
    expected = [
        whole.observe(*given, step) for step, given in enumerate(zip(points, rates, strict=True), 1)
    ]
    found, passed = [], 0
    for step, (point, rate) in enumerate(zip(points, rates, strict=True), 1):
        if step == 1501:
            resumed.restore(part.tensors(), json.loads(json.dumps(part.values())))
            part = resumed
        passes = part.passes_over(rate, step)
        passed += passes
        found.append([] if passes else part.observe(point, rate, step))
    assert found == expected and any(expected[1500:]) and passed > 1000
