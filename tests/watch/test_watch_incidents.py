"""Incidents in a person's own loop: the same causes as in a run of ours, from the newest updates."""

import math
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import planted_incidents
from gradiometer import BadArgument, diagnose, watch
from gradiometer.measurement import Draw, Order
from gradiometer.problems import Problem
from gradiometer.verdict import say
from planted_incidents import BATCH, CASES, EXAMPLES, STEP, Cause

STEPS = EXAMPLES // BATCH


def rate_of(settings: dict[str, Any]) -> Callable[[int], float]:
    """The rate of an update, as a loop of one's own would set it."""
    written = settings.get("schedule")
    if written is None:
        return lambda step: float(settings["learning_rate"])
    return lambda step: float(eval(written, {"t": step, "exp": math.exp}))


def loop_of(
    problem: Problem,
    rate: Callable[[int], float],
    out: Path,
    *,
    at_step: Callable[[int, torch.nn.Module], None] = lambda *_: None,
    **settings: Any,
) -> Any:
    """A plain loop under watch, with the batches of a run of ours."""
    torch.manual_seed(0)
    model = problem.model()
    optimizer = torch.optim.SGD(model.parameters(), lr=rate(0), momentum=0.0)
    order = Order(Draw.RESHUFFLED, EXAMPLES, BATCH)
    with (
        warnings.catch_warnings(),
        watch(
            model, optimizer, loss=problem.loss, out=out, page=False, quiet=True, **settings
        ) as w,
    ):
        warnings.simplefilter("ignore")
        for step in range(STEPS):
            at_step(step, model)
            for group in optimizer.param_groups:
                group["lr"] = rate(step)
            batch = problem.train.batch(order.batch(step))
            optimizer.zero_grad()
            value = problem.loss(model, batch).mean()
            value.backward()
            w.step(value, batch)
            optimizer.step()
    return w, model, optimizer


@pytest.mark.slow
@pytest.mark.parametrize("shift", [0, 100, 200])
@pytest.mark.parametrize("name", CASES)
def test_the_cause_of_a_planted_incident_is_named_in_a_loop_of_ones_own(
    name: str, shift: int, tmp_path: Path
) -> None:
    settings, cause = CASES[name]
    problem: Problem = getattr(planted_incidents, name)(shift)
    w, _, _ = loop_of(problem, rate_of(settings), tmp_path, checkpoints=1)
    found = w.incident(batches=problem.train.data, batch_size=BATCH)
    named: Cause = found.cause, found.layer
    assert named == cause, found.tried
    if found.cause in ("example", "batch"):
        assert found.step == STEP
    if found.cause == "example":
        (row,) = found.rows
        example = int(Order(Draw.RESHUFFLED, EXAMPLES, BATCH).batch(STEP)[row])
        assert example in planted_incidents.planted().tolist()


def test_a_nan_is_a_finding_of_the_run_with_the_state_to_go_back_to(tmp_path: Path) -> None:
    problem = planted_incidents.nan_example_small()
    states: dict[int, list[Tensor]] = {}

    def keep(step: int, model: torch.nn.Module) -> None:
        states[step] = [one.detach().clone() for one in model.parameters()]

    w, model, _ = loop_of(problem, lambda _: 0.05, tmp_path, at_step=keep, checkpoints=1)
    found = w.incident(batches=problem.train.data, batch_size=BATCH)
    assert (found.cause, found.step, found.rows) == ("example", STEP, (3,))
    (finding,) = [each for each in diagnose(w.run).findings if each.gauge == "incident"]
    said = str(say(finding))
    assert f"row 3 of the batch of step {STEP}" in said and f"w.go_back({found.start})" in said
    assert not all(bool(one.isfinite().all()) for one in model.parameters())
    assert w.go_back(found.start) == found.start == STEP - 8
    assert all(map(torch.equal, states[found.start], model.parameters()))


def test_the_bits_of_training_are_the_same_if_its_newest_updates_are_kept(tmp_path: Path) -> None:
    problem = planted_incidents.outlier_small()
    ends = []
    for checkpoints in (0, 1):
        w, model, _ = loop_of(problem, lambda _: 0.05, tmp_path, checkpoints=checkpoints)
        ends.append([one.detach().clone() for one in model.parameters()])
    w.incident(batches=problem.train.data, batch_size=BATCH)
    ends.append([one.detach().clone() for one in model.parameters()])
    for end in ends[1:]:
        assert all(map(torch.equal, ends[0], end))


def test_a_loop_that_stops_at_a_nan_is_explained_after_its_error(tmp_path: Path) -> None:
    problem = planted_incidents.nan_example_small()
    torch.manual_seed(0)
    model = problem.model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    order = Order(Draw.RESHUFFLED, EXAMPLES, BATCH)
    w = watch(
        model, optimizer, loss=problem.loss, out=tmp_path, checkpoints=1, page=False, quiet=True
    )
    with suppress(ArithmeticError), pytest.warns(RuntimeWarning, match="the loss is nan"), w:
        for step in range(STEPS):
            batch = problem.train.batch(order.batch(step))
            optimizer.zero_grad()
            value = problem.loss(model, batch).mean()
            value.backward()
            w.step(value, batch)
            if not value.isfinite():
                raise ArithmeticError("the loss is not finite")
            optimizer.step()
    found = w.incident(batches=problem.train.data, batch_size=BATCH)
    assert (found.cause, found.rows) == ("example", (3,)), found


def test_trials_look_for_the_cause_of_an_incident(tmp_path: Path) -> None:
    problem = planted_incidents.outlier_small()
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(*problem.train.data), batch_size=BATCH, shuffle=True
    )
    ends = []
    for trials in (0.0, 9.0):
        w, model, _ = loop_of(
            problem, lambda _: 0.05, tmp_path, checkpoints=1, trials=trials, sampling=loader
        )
        ends.append([one.detach().clone() for one in model.parameters()])
    assert all(map(torch.equal, *ends))
    (finding,) = [each for each in diagnose(w.run).findings if each.gauge == "incident"]
    assert f"row 5 of the batch of step {STEP}" in str(say(finding))


def test_an_incident_needs_its_updates(tmp_path: Path) -> None:
    problem = planted_incidents.outlier_small()
    w, _, _ = loop_of(problem, lambda _: 0.05, tmp_path)
    with pytest.raises(BadArgument, match=r"No incident is kept.*checkpoints=1"):
        w.incident(batches=problem.train.data, batch_size=BATCH)
    with pytest.raises(BadArgument, match=r"no state is kept"):
        w.go_back(3)


def test_losses_without_a_spread_show_no_incident_and_no_warning(tmp_path: Path) -> None:
    """After losses that are all the same, a finite one is not said to be beyond the noise: that of
    a later step that is not finite is."""
    model = torch.nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)

    def loss(model: torch.nn.Module, batch: Tensor) -> Tensor:
        return 0 * model(batch).sum() + batch.mean()

    with (
        warnings.catch_warnings(),
        watch(
            model, optimizer, loss=loss, out=tmp_path, page=False, quiet=True, checkpoints=1
        ) as w,
    ):
        warnings.simplefilter("error", RuntimeWarning)
        for step in range(200):
            value = {100: 1.0, 150: math.inf}.get(step, 0.0)
            batch = torch.full((4, 1), value)
            optimizer.zero_grad()
            reached = loss(model, batch)
            reached.backward()
            w.step(reached, batch)
            optimizer.step()
    held = w.newest_updates.incident
    assert held is not None and held.peak == 150
    assert not any("no longer kept" in text for text in w.findings().warnings)
