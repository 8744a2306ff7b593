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
from gradiometer import BadArgument, Unsupported, diagnose, watch
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


@pytest.mark.parametrize(
    "shift",
    [
        pytest.param(0, marks=pytest.mark.slow),
        pytest.param(100, marks=pytest.mark.nightly),
        pytest.param(200, marks=pytest.mark.nightly),
    ],
)
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
    # the training takes a twentieth of a second, and a trial before the incident up to a third of one
    for trials in (0.0, 30.0):
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
    held = w.forks.newest_updates.incident
    assert held is not None and held.peak == 150
    assert not any("no longer kept" in text for text in w.findings().warnings)


INPUTS = torch.randn(512, 4, generator=torch.Generator().manual_seed(3))
TARGETS = INPUTS.sum(dim=1, keepdim=True) / 3


def squares(model: torch.nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return (model(batch[0]) - batch[1]).square().mean(dim=1)


def states_of(
    w: Any,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    at: int,
    target: float,
    *,
    each: Callable[[int], int] = lambda _: 1,
    after: Callable[[int], object] = lambda _: None,
) -> list[dict[str, Tensor]]:
    """Train for 100 updates, with a wrong target at one of them. Returns the states before each.

    Args:
        w: The watch.
        model: The model.
        optimizer: Its optimizer.
        at: The update with the target.
        target: The target.
        each: The number of batches of an update.
        after: Called after an update.
    """
    states, begin = [], 0
    targets = TARGETS.to(next(model.parameters()).dtype)
    with warnings.catch_warnings(), w:
        warnings.simplefilter("ignore")
        for step in range(100):
            states.append({name: one.clone() for name, one in model.state_dict().items()})
            optimizer.zero_grad()
            for _ in range(each(step)):
                rows = torch.arange(begin, begin + 4) % 512
                begin += 4
                batch = INPUTS[rows].to(targets.dtype), targets[rows].clone()
                if step == at:
                    batch[1][0] = target
                value = squares(model, batch).mean()
                (value / each(step)).backward()
                w.step(value, batch)
            optimizer.step()
            after(step)
    return states


def assert_same(model: torch.nn.Module, state: dict[str, Tensor]) -> None:
    assert all(torch.equal(one, state[name]) for name, one in model.state_dict().items())


def test_updates_with_fewer_batches_are_made_again_as_they_were(tmp_path: Path) -> None:
    """Three batches of accumulation, of which the end of an epoch leaves one or two."""
    model = torch.nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    w = watch(
        model, optimizer, loss=squares, out=tmp_path, accumulation=3, checkpoints=1, quiet=True
    )
    states = states_of(w, model, optimizer, 65, 300.0, each=lambda step: 3 - (step % 4 == 3))
    found = w.incident(batches=(INPUTS, TARGETS), batch_size=4)
    assert (found.cause, found.step, found.start) == ("batch", 65, 64)
    assert w.go_back(found.start) == 64
    assert_same(model, states[64])


def test_the_update_of_an_incident_with_fewer_batches_is_refused_by_its_step(
    tmp_path: Path,
) -> None:
    model = torch.nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    w = watch(
        model, optimizer, loss=squares, out=tmp_path, accumulation=3, checkpoints=1, quiet=True
    )
    states_of(w, model, optimizer, 67, 300.0, each=lambda step: 3 - (step % 4 == 3))
    with pytest.raises(Unsupported, match=r"update of step 67 .* number of batches than 3"):
        w.incident(batches=(INPUTS, TARGETS), batch_size=4)


def test_with_dropout_training_goes_back_to_a_state_that_it_has_had(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Linear(4, 16), torch.nn.ReLU(), torch.nn.Dropout(0.5), torch.nn.Linear(16, 1)
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    w = watch(model, optimizer, loss=squares, out=tmp_path, checkpoints=1, quiet=True)
    states = states_of(w, model, optimizer, 65, 300.0)
    found = w.incident(batches=(INPUTS, TARGETS), batch_size=4)
    step = w.go_back(found.start)
    assert step < found.start
    assert_same(model, states[step])


def test_updates_whose_parameters_are_not_finite_are_not_compared(tmp_path: Path) -> None:
    """The bits of NaN do not repeat."""
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1))
    model.double()
    optimizer = torch.optim.NAdam(model.parameters(), lr=0.01)
    w = watch(model, optimizer, loss=squares, out=tmp_path, checkpoints=5, quiet=True)
    data = INPUTS.double(), TARGETS.double()
    asked: list[Any] = []

    def ask(step: int) -> None:
        if step in (30, 99):
            asked.append(w.incident(batches=data, batch_size=4))

    states_of(w, model, optimizer, 13, math.inf, after=ask)
    for found in asked:
        assert (found.cause, found.step, found.rows) == ("example", 13, (0,))
        assert found.incident.kind == "not finite"


def test_updates_from_before_a_layer_was_unfrozen_are_not_made_again(tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1))
    model[0].requires_grad_(False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    w = watch(model, optimizer, loss=squares, out=tmp_path, checkpoints=1, quiet=True)
    states_of(w, model, optimizer, 45, 300.0)
    model[0].requires_grad_(True)
    with pytest.raises(Unsupported, match="trained other parameters at step"):
        w.incident(batches=(INPUTS, TARGETS), batch_size=4)


def test_what_was_kept_before_training_went_back_is_no_part_of_a_later_incident(
    tmp_path: Path,
) -> None:
    model = torch.nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.005)
    w = watch(model, optimizer, loss=squares, out=tmp_path, checkpoints=1, quiet=True)
    states = states_of(
        w, model, optimizer, 66, 300.0, after=lambda step: step == 50 and w.go_back(48)
    )
    found = w.incident(batches=(INPUTS, TARGETS), batch_size=4)
    assert (found.cause, found.step, found.rows) == ("example", 66, (0,))
    assert w.go_back(found.start) == found.start == 58
    assert_same(model, states[58])
