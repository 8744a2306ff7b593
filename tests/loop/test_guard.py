"""The guard: a rate that is too high ends the training nowhere, and a stop changes nothing."""

import copy
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from msgspec.structs import replace
from torch import Tensor, nn

from gradiometer import Configuration, supervised
from gradiometer.errors import BadArgument, Diverged, Interrupted
from gradiometer.measurement.optimizer.clipping import Clipping
from gradiometer.problems import Examples, Problem
from gradiometer.run import problem as recorded
from gradiometer.train import resume, train
from gradiometer.train.guard import MOST, Guard
from gradiometer.train.restoring.replay import state_at
from stopped_training import StopAt

SQUARED = supervised(nn.MSELoss(reduction="none"))
STEPS = 120


def regression(seed: int = 0) -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(64, 4, generator=generator, dtype=torch.float64)
    model = nn.Sequential(nn.Linear(4, 1, bias=False, dtype=torch.float64), nn.Flatten(0))
    nn.init.zeros_(model[0].weight)
    return model, (
        inputs,
        inputs.sum(1) + 0.1 * torch.randn(64, generator=generator, dtype=torch.float64),
    )


class Guarded:
    """A training with a guard, step by step."""

    def __init__(self, rate: float, expected: float | None = None, momentum: float = 0.9) -> None:
        self.model, self.data = regression()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=rate, momentum=momentum)
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda step: 1 - step / STEPS
        )
        self.guard = Guard(
            self.model, self.optimizer, self.scheduler, loss=SQUARED, steps=STEPS, expected=expected
        )

    def step(self, at: int) -> tuple[float, bool]:
        chosen = torch.randperm(64, generator=torch.Generator().manual_seed(at))[:8]
        batch = self.data[0][chosen], self.data[1][chosen]
        self.optimizer.zero_grad()
        loss = SQUARED(self.model, batch).mean()
        loss.backward()
        back = self.guard.went_back(loss, batch)
        if not back:
            self.optimizer.step()
        self.scheduler.step()
        return loss.item(), back

    def loss(self) -> float:
        with torch.no_grad():
            return SQUARED(self.model, self.data).mean().item()


@pytest.mark.parametrize("rate", [8.0, 20.0])
def test_a_rate_that_diverges_is_lowered_until_it_trains(rate: float) -> None:
    """The gradients are clipped, as `tune` does: the loss grows, and stays finite."""
    ends = []
    for guarded in (True, False):
        training = Guarded(rate, expected=0.05)
        training.optimizer.register_step_pre_hook(Clipping(1.0))
        training.guard.returns = 0 if guarded else MOST
        for step in range(STEPS):
            training.step(step)
        ends.append(training.loss())
    assert ends[0] < ends[1] / 2


def test_a_rate_that_trains_well_is_left_alone() -> None:
    training = Guarded(0.02, expected=0.1)
    assert not any(training.step(step)[1] for step in range(STEPS))
    assert training.loss() < 0.02


@pytest.mark.parametrize("spoiled", [30.0, math.nan, math.inf])
def test_a_collapse_restores_the_kept_state_at_a_lower_rate(spoiled: float) -> None:
    training = Guarded(0.02)
    for step in range(60):
        training.step(step)
    before = training.loss()
    with torch.no_grad():
        training.model[0].weight.add_(spoiled)
    backs = [training.step(step)[1] for step in range(60, 70)]
    assert sum(backs) == 1 and training.loss() < 4 * before + 0.02
    factor = 0.5 if not math.isfinite(spoiled) else 0.5**0.5
    assert training.optimizer.param_groups[0]["lr"] == pytest.approx(
        0.02 * factor * (1 - 70 / STEPS)
    )


def test_one_batch_with_a_high_loss_is_no_collapse() -> None:
    training = Guarded(0.01)
    for step in range(60):
        training.step(step)
    inputs, targets = training.data
    for _ in range(20):
        assert not training.guard.went_back(1.1, (inputs, targets + 1))


def test_where_far_less_is_learnt_than_expected_the_rate_is_lowered_from_30_percent_on() -> None:
    training = Guarded(1e-4, expected=1e-3, momentum=0.0)
    backs = [step for step in range(STEPS) if training.step(step)[1]]
    assert backs[0] == 0.3 * STEPS and all(
        later - one >= 0.1 * STEPS for one, later in pairwise(backs)
    )


def test_a_training_that_fell_back_to_a_plateau_returns_also_where_the_batch_is_a_hard_one() -> (
    None
):
    """Its loss is as high as at the start again. On the batch of the test the kept state has a
    higher loss, by chance."""
    model, data = regression()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)
    guard = Guard(
        model,
        optimizer,
        scheduler,
        loss=lambda _, batch: torch.full((len(batch[0]),), 8.0),
        steps=STEPS,
        expected=0.8,
    )
    weight = next(model.parameters())
    backs = []
    for step in range(STEPS // 2):
        loss = 6.6 if step < 10 else 4.0 if step < 24 else 6.7
        with torch.no_grad():
            weight.fill_(1.0 if loss == 4 else 9.0)
        if guard.went_back(loss, data):
            backs.append((step, bool((weight == 1).all())))
    assert backs and all(restored for _, restored in backs) and backs[0][0] >= 0.3 * STEPS


def test_a_restored_guard_goes_on_to_the_same_bits() -> None:
    whole, part = (Guarded(8.0, expected=0.05) for _ in range(2))
    for training in (whole, part):
        training.optimizer.register_step_pre_hook(Clipping(1.0))
    for step in range(40):
        whole.step(step)
    part.model.load_state_dict(copy.deepcopy(whole.model.state_dict()))
    part.optimizer.load_state_dict(copy.deepcopy(whole.optimizer.state_dict()))
    part.scheduler.load_state_dict(copy.deepcopy(whole.scheduler.state_dict()))
    part.guard.restore(copy.deepcopy(whole.guard.tensors()), whole.guard.values())
    ends = [[one.step(step) for step in range(40, STEPS)] for one in (whole, part)]
    assert ends[0] == ends[1] and any(back for _, back in ends[0])
    assert all(map(torch.equal, whole.model.parameters(), part.model.parameters()))


def doubtful() -> Problem:
    inputs, targets = regression()[1]
    return Problem("line", lambda: regression()[0], SQUARED, Examples((inputs, targets)))


@pytest.mark.slow
@pytest.mark.parametrize("measured", [{"budget": 0.0}, {"every": 1}])
def test_a_guarded_run_that_was_stopped_resumes_to_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, measured: dict[str, Any]
) -> None:
    monkeypatch.setattr(recorded, "load", lambda *_, **__: doubtful())
    asked = Configuration(
        problem="x:y",
        learning_rate=3.0,
        schedule="linear",
        steps=STEPS,
        batch_size=8,
        momentum=0.5,
        guard=0.1,
        check_edge=False,
        check_endpoint=False,
        **measured,
    )
    whole = train(doubtful(), asked, tmp_path / "whole")
    texts = [event["text"] for event in whole.events if event["event"] == "warning"]
    assert whole.status == "finished" and any("the guard went back" in text for text in texts)
    assert whole.losses[1][-1] < 1
    with pytest.raises(Interrupted):
        train(doubtful(), asked, tmp_path / "stopped", StopAt(60))
    (folder,) = (tmp_path / "stopped").iterdir()
    resumed = resume(folder)
    assert resumed.losses[1].tolist() == whole.losses[1].tolist()
    examined = [
        [event["step"] for event in run.events if event["event"] == "loss_examined"]
        for run in (whole, resumed)
    ]
    assert examined[0] == examined[1]
    again = state_at(whole, 90, "fork", doubtful())
    assert not again.warnings
    with pytest.raises(Diverged):
        train(doubtful(), replace(asked, guard=None), tmp_path / "plain")


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"expected": math.nan}])
def test_bad_arguments_are_refused(wrong: dict[str, Any]) -> None:
    model, _ = regression()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)
    with pytest.raises(BadArgument, match=next(iter(wrong))):
        Guard(model, optimizer, scheduler, loss=SQUARED, **{"steps": 10, **wrong})
    with pytest.raises(BadArgument, match="`guard` must be finite"):
        Configuration(guard=math.inf)


@pytest.mark.parametrize(
    "made",
    [
        lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 0.4, total_steps=STEPS),
        lambda o: torch.optim.lr_scheduler.CyclicLR(o, 0.01, 0.4, step_size_up=20),
        lambda o: torch.optim.lr_scheduler.SequentialLR(
            o,
            [
                torch.optim.lr_scheduler.LinearLR(o, 0.1, 1.0, 10),
                torch.optim.lr_scheduler.CosineAnnealingLR(o, 60),
            ],
            [10],
        ),
        lambda o: torch.optim.lr_scheduler.ChainedScheduler(
            [torch.optim.lr_scheduler.ExponentialLR(o, 0.9)]
        ),
        torch.optim.lr_scheduler.ReduceLROnPlateau,
    ],
)
def test_a_return_lowers_all_later_rates_of_any_scheduler(made: Any) -> None:
    rates = []
    for returns in (False, True):
        model, data = regression()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        scheduler = made(optimizer)
        guard = Guard(model, optimizer, scheduler, loss=SQUARED, steps=STEPS)
        for step in range(30):
            optimizer.step()
            if step == 5 and returns:
                assert guard.went_back(math.inf, data)
            scheduler.step(1.0) if isinstance(
                scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau
            ) else scheduler.step()
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates[1] == pytest.approx(0.5 * rates[0], rel=1e-6)


def test_a_return_at_a_measured_step_leaves_no_hooks(tmp_path: Path) -> None:
    asked = Configuration(
        problem="x:y",
        learning_rate=1.0,
        steps=STEPS,
        batch_size=8,
        guard=0.1,
        check_edge=False,
        every=1,
        budget=0.5,
    )
    run = train(doubtful(), asked, tmp_path)
    series, returns = (
        run.series("noise"),
        [text for text in run.warnings if "the guard went back" in text],
    )
    assert returns and run.steps == STEPS and series is not None and len(series.steps) < STEPS


def test_a_loss_that_raises_leaves_the_parameters_as_they_are() -> None:
    training = Guarded(0.01)
    for step in range(20):
        training.step(step)

    def raising(*_: Any) -> Tensor:
        raise RuntimeError("out of memory")

    training.guard.loss = raising
    weight = training.model[0].weight.detach().clone()
    with pytest.raises(Exception, match="out of memory"):
        for _ in range(STEPS):
            training.guard.went_back(1e6, training.data)
    assert torch.equal(training.model[0].weight, weight)


def test_sparse_and_half_precision_gradients_are_finite_or_not() -> None:
    model = nn.EmbeddingBag(10, 2, sparse=True)
    half = nn.Parameter(torch.zeros(100_000, dtype=torch.float16))
    optimizer = torch.optim.SGD([*model.parameters(), half], lr=0.1)
    guard = Guard(
        model, optimizer, torch.optim.lr_scheduler.ConstantLR(optimizer), loss=SQUARED, steps=10
    )
    model(torch.tensor([[1, 2]])).sum().backward()
    half.grad = torch.full_like(half, 300.0)  # its norm is above the largest number
    assert not guard.went_back(1.0, None)
    half.grad[0] = math.inf
    assert guard.went_back(1.0, None)
