"""The effect at the end of a training, from branches to a quarter and a half of what is left."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from gradiometer import BadArgument, supervised, watch
from gradiometer.loop import Fork, Loop, alternative_of, fork
from gradiometer.loop.branch import BranchResult
from gradiometer.loop.branches import at_end
from gradiometer.loop.comparison.effects import effects_at_end
from gradiometer.loop.readout import Readout
from gradiometer.loop.recorded.record import ForkRecord, Plan
from gradiometer.measurement.estimate import Estimate

NOISE = (0.001, -0.001, 0.002, -0.002)


def results(
    quarter: float, half: float, name: str = "test_loss", *, base: float = 1.0
) -> list[BranchResult]:
    """Branches of 25 and 50 examples, whose effects are these."""
    ends = {
        (25, "go on"): base,
        (50, "go on"): base,
        (25, "a"): base + quarter,
        (50, "a"): base + half,
    }
    return [
        BranchResult(
            each,
            place,
            horizon,
            1,
            horizon,
            1.0,
            (),
            {name: Readout(end + (each == "a") * noise, None, "loss" in name)},
        )
        for (horizon, each), end in ends.items()
        for place, noise in enumerate(NOISE)
    ]


def end(
    quarter: float, half: float, name: str = "test_loss", left: int = 100
) -> tuple[str, Estimate]:
    (effect,) = effects_at_end(results(quarter, half, name), "go on", left)
    return effect.verdict, effect.estimate


def test_an_effect_that_grows_may_grow_further_and_one_that_shrinks_keeps_its_sign() -> None:
    verdict, estimate = end(-0.1, -0.2)
    assert (
        verdict == "better" and estimate.low < -0.4 < -0.25 < estimate.value < -0.14 < estimate.high
    )
    verdict, estimate = end(-0.4, -0.2)
    assert verdict == "better" and estimate.low < -0.22 and estimate.value == pytest.approx(-0.2)
    assert -0.05 < estimate.high < 0


def test_an_effect_may_come_back_to_what_it_was_and_the_noise_of_one_that_shrinks_does_so() -> None:
    _, grown = end(-0.1, -0.2)
    assert grown.low == pytest.approx(-0.4, abs=0.01) and grown.value == pytest.approx(-0.2)
    assert grown.high == pytest.approx(-0.05, abs=0.001)
    _, shrunk = end(-0.4, -0.2)
    assert shrunk.low == pytest.approx(-0.4, abs=0.01)
    _, worse = end(0.4, 0.2)
    assert worse.value == pytest.approx(0.2) and worse.low == pytest.approx(0, abs=0.01)


@pytest.mark.parametrize(("loss", "is_said"), [(1.0, True), (0.5, False)])
def test_a_fork_at_a_plateau_says_that_effects_may_be_larger_at_the_end(
    loss: float, is_said: bool
) -> None:
    shown = [
        BranchResult(name, place, horizon, 1, horizon, 1.0, (), {"test_loss": Readout(end)})
        for horizon, name, end in (
            (25, "go on", 1.0),
            (50, "go on", loss),
            (25, "rate 2x", 0.9),
            (50, "rate 2x", loss - 0.1),
        )
        for place in range(4)
    ]
    plan = Plan(0, (alternative_of("rate 2x"),), 4, 50, "half", left=100)
    assert ("many times larger than said here" in str(plan.fork(shown))) is is_said


def test_nothing_is_called_worse_while_the_trend_is_towards_it() -> None:
    assert end(0.4, 0.15)[0] == "open"  # it fell by 0.25, and may fall by that once more
    assert end(0.4, 0.35)[0] == "worse"
    assert end(0.2, 0.3)[0] == "worse"
    assert end(0.1, -0.1)[0] == "better"
    accuracy = {quarter: end(quarter, -0.15, "test_accuracy")[0] for quarter in (-0.4, -0.1)}
    assert accuracy == {-0.4: "open", -0.1: "worse"}


def test_branches_that_end_too_early_show_no_end() -> None:
    verdict, estimate = end(-0.1, -0.2, left=130)
    assert verdict == "open" and not estimate.tells
    only = [result for result in results(-0.1, -0.2) if result.horizon == 50]
    assert not effects_at_end(only, "go on", 100)[0].estimate.tells
    (there,) = effects_at_end(only, "go on", 50)
    assert there.estimate.value == pytest.approx(-0.2)


def loop(left: str | None = "80 updates") -> Loop:
    torch.manual_seed(0)
    inputs = torch.randn(256, 4)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1), nn.Flatten(0))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    data, loss = (inputs, inputs.sum(dim=1)), supervised(nn.MSELoss(reduction="none"))
    return Loop(model, optimizer, loss=loss, batches=data, batch_size=32, left=left)


def test_a_fork_to_the_end_trains_two_lengths_with_half_of_each_at_the_rate_of_training(
    tmp_path: Path,
) -> None:
    found = fork(loop(), ["rate 2x"], horizon="end", replicates=2, out=tmp_path)
    assert found.tail == "half" and found.shows_end and not found.leans
    assert {result.updates for result in found.shorter} == {20} and {
        result.updates for result in found.results
    } == {40}
    (effect,) = found.at_end()
    assert effect.verdict == "better"
    assert "rate 2x ends" in at_end(found)
    assert [line.split("  ")[0] for line in str(found).splitlines()[2:]] == [
        "alternative",
        "go on",
        "rate 2x",
    ]
    assert str(effect.estimate) in str(found) and len(repr(found)) < 700
    sentence = str(found).splitlines()[0]
    assert sentence.startswith("From step") and "in training loss: rate 2x ends" in sentence
    kept = ForkRecord.of(found).fork
    assert kept.at_end() == found.at_end()


def test_a_budget_that_pays_for_it_answers_for_the_end_and_goes_on_after_a_stop(
    tmp_path: Path,
) -> None:
    stopped: list[BranchResult] = []

    def stop(result: BranchResult, *_: int) -> None:
        stopped.append(result)
        if len(stopped) == 5:
            raise KeyboardInterrupt

    training, asked = loop(), {"alternatives": ["rate 2x"], "budget": 7.0}
    whole = fork(training, out=tmp_path / "whole", **asked)  # type: ignore[arg-type]
    assert whole.tail == "half" and whole.shows_end
    assert whole.horizon in (40 * 32, 80 * 32)
    spent = sum(result.examples for result in (*whole.results, *whole.shorter))
    assert 4.5 * 80 * 32 <= spent <= 7 * 80 * 32
    with pytest.raises(KeyboardInterrupt):
        fork(training, out=tmp_path / "stopped", progress=stop, **asked)  # type: ignore[arg-type]
    again = fork(training, out=tmp_path / "stopped", **asked)  # type: ignore[arg-type]
    ends = [
        [(one.alternative, one.readouts["train_loss"].mean) for one in each.results]
        for each in (again, whole)
    ]
    assert ends[0] == ends[1] and again.at_end() == whole.at_end()


def test_a_fork_to_the_end_needs_to_know_it() -> None:
    with pytest.raises(BadArgument, match="`horizon` is 'end', and what is left is not known"):
        fork(loop(None), ["rate 2x"], horizon="end")
    with pytest.raises(BadArgument, match="fewer than 4 updates are left"):
        fork(loop("3 updates"), ["rate 2x"], horizon="end")
    short: Fork = fork(loop(None), ["rate 2x"], horizon="2 updates", replicates=1)
    with pytest.raises(BadArgument, match="`left` of this fork is not known"):
        short.at_end()
    assert not short.shows_end and at_end(short) == ""


def test_a_fork_at_the_end_of_a_schedule_is_refused_with_the_step_before_which_it_would_tell(
    tmp_path: Path,
) -> None:
    training = loop(None)
    model, optimizer, inputs = training.model, training.optimizer, torch.randn(64, 4)
    data, loss = (inputs, inputs.sum(dim=1)), supervised(nn.MSELoss(reduction="none"))
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: max(1 - step / 20, 0.0))
    settings = {
        "batches": data,
        "batch_size": 32,
        "alternatives": ["rate 2x"],
        "replicates": 1,
        "scheduler": scheduler,
    }
    with watch(model, optimizer, loss=loss, out=tmp_path, page=False, quiet=True) as w:
        for step in range(20):
            optimizer.zero_grad()
            value = loss(model, data).mean()
            value.backward()
            w.step(value, data)
            optimizer.step()
            if step == 18:
                # one update has a rate, the others none
                assert w.fork(horizon="4 updates", **settings) is not None
            scheduler.step()
        with pytest.raises(
            BadArgument,
            match=r"has the learning rate 0 .* from step 20 on.* fork from a step before 10",
        ):
            w.fork(horizon="4 updates", **settings)


@pytest.mark.parametrize("plan", ["one cycle", "each epoch", "steps", "warm-up"])
def test_a_watched_fork_takes_the_data_and_what_is_left_from_what_it_sees(
    tmp_path: Path, plan: str
) -> None:
    torch.manual_seed(0)
    inputs = torch.randn(256, 4)
    rows = torch.utils.data.TensorDataset(inputs, inputs.sum(dim=1))
    loader = torch.utils.data.DataLoader(rows, batch_size=32, shuffle=True)
    model, loss = nn.Sequential(nn.Linear(4, 1), nn.Flatten(0)), supervised(nn.MSELoss())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    schedules = torch.optim.lr_scheduler
    scheduler: torch.optim.lr_scheduler.LRScheduler
    if plan == "one cycle":
        scheduler = schedules.OneCycleLR(optimizer, 0.02, total_steps=80)
    elif plan == "each epoch":
        scheduler = schedules.CosineAnnealingLR(optimizer, T_max=10)
    else:  # it ends at the rate of training, which goes on
        scheduler = schedules.LinearLR(optimizer, total_iters=20)
    settings = {"steps": 80} if plan == "steps" else {}
    with watch(
        model,
        optimizer,
        loss=loss,
        sampling=loader,
        out=tmp_path,
        page=False,
        quiet=True,
        **settings,
    ) as w:
        for _ in range(2):
            for batch in loader:
                optimizer.zero_grad()
                value = loss(model, batch)
                value.backward()
                w.step(value, batch)
                optimizer.step()
                if plan != "each epoch":
                    scheduler.step()
            if plan == "each epoch":
                scheduler.step()
        if plan == "warm-up":
            with pytest.raises(BadArgument, match="`horizon` is missing"):
                w.fork("rate 2x", replicates=1)
            return
        found = w.fork("rate 2x", replicates=1)
    assert found is not None
    assert found.left == 64 * 32 and found.horizon == 16 * 32
    said = str(found).splitlines()[0]
    assert "One replicate gives no interval" in said and "horizon='end' answers for that" in said


class Stream(torch.utils.data.IterableDataset):
    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        inputs = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
        yield from zip(inputs, inputs.sum(dim=1), strict=True)


class Broken(torch.utils.data.TensorDataset):
    """Its length is code that fails."""

    def __len__(self) -> int:
        raise ValueError("not counted")


def test_a_fork_on_a_stream_with_a_plan_in_epochs_says_what_to_give(tmp_path: Path) -> None:
    """Its loader has a `__len__` that fails."""
    loader = torch.utils.data.DataLoader(Stream(), batch_size=16)
    model, loss = nn.Sequential(nn.Linear(4, 1), nn.Flatten(0)), supervised(nn.MSELoss())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=10)
    with watch(model, optimizer, loss=loss, out=tmp_path, page=False, quiet=True) as w:
        for _ in range(2):
            for batch in w.batches(loader):
                optimizer.zero_grad()
                loss(model, batch).backward()
                optimizer.step()
            scheduler.step()
        with pytest.raises(BadArgument, match="`batches` has an IterableDataset, which cannot be"):
            w.fork("rate 2x", replicates=1)


def test_a_data_set_whose_length_fails_has_no_known_sampling(tmp_path: Path) -> None:
    rows = Broken(torch.zeros(8, 4), torch.zeros(8))
    loader = torch.utils.data.DataLoader(rows, sampler=[0, 1, 2])
    model = nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with watch(model, optimizer, out=tmp_path, page=False, quiet=True) as w:
        assert len(w.batches(loader)) == 3


def test_a_watched_fork_without_data_says_what_to_give(tmp_path: Path) -> None:
    model = nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    w = watch(model, optimizer, loss=supervised(nn.MSELoss()), out=tmp_path, quiet=True)
    with pytest.raises(BadArgument, match="`batches` is missing: give the training data"):
        w.fork("rate 2x")
