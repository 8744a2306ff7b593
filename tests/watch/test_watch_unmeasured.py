"""Steps of a watched loop at which nothing is measured: what is kept, and what is noticed, for a
few microseconds."""

import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import pytest
import torch

import gradiometer
from gradiometer import Run
from watched_loop import one_backward, simple

NEVER = 10**6


def test_losses_are_written_before_the_next_decision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gradiometer.integrations.watch.observers.losses.LOOK_SECONDS", 0.0)
    monkeypatch.setattr("gradiometer.run.cadence.cadence.LOOK_SECONDS", 0.0)
    monkeypatch.setattr("gradiometer.run.recorder.SECONDS_BETWEEN_WRITES", 0.0)
    model, optimizer, w = simple(tmp_path, every=NEVER)
    with w:
        for _ in range(10):
            optimizer.zero_grad()
            w.step(*one_backward(model))
            optimizer.step()
        steps, _ = Run.open(next(tmp_path.iterdir())).losses  # as another process reads it
    assert len(steps) >= 9


def test_all_losses_are_kept_in_order_over_many_stretches(tmp_path: Path) -> None:
    model, optimizer, w = simple(tmp_path, every=150)
    given = []
    with w:
        for _ in range(400):
            optimizer.zero_grad()
            loss, batch = one_backward(model)
            w.step(loss, batch)
            given.append(loss.item())
            optimizer.step()
    assert w.run is not None
    steps, losses = w.run.losses
    assert steps.tolist() == list(range(400)) and losses.tolist() == given


@pytest.mark.parametrize("accumulation", [1, 3])
def test_every_backward_of_an_unmeasured_step_is_charged(tmp_path: Path, accumulation: int) -> None:
    _, _, w = simple(tmp_path, every=NEVER, accumulation=accumulation)
    with w:
        losses, charged = w.losses, []
        w.budget.charge = lambda what, seconds: charged.append(seconds)
        losses._timed.append(0.25)
        losses._from = 2
        losses.resume(6)
        losses._close_stretch()
        del w.budget.charge
    assert charged == [0.25 * 4 * accumulation]


@pytest.mark.parametrize("change", [7, 150, 390])
def test_another_optimizer_is_followed_from_its_first_updates_on(
    tmp_path: Path, change: int
) -> None:
    model, optimizer, w = simple(tmp_path, every=NEVER)
    with w:
        for step in range(change + 3):
            if step == change:
                optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
            optimizer.zero_grad()
            w.step(*one_backward(model))
            optimizer.step()
            if w._subject.optimizers[0] is optimizer and step >= change:
                break
    assert step <= change + 1
    assert any("AdamW does" in text for text in w.findings().warnings)


def test_a_skipped_update_is_no_reason_for_a_warning(tmp_path: Path) -> None:
    model, optimizer, w = simple(tmp_path, every=NEVER)
    with w:
        for step in range(100):
            optimizer.zero_grad()
            w.step(*one_backward(model))
            if step not in (3, 4, 50):
                optimizer.step()
    assert not w.findings().warnings


@pytest.mark.parametrize("kind", ["a number", "a tensor in place", "a new group"])
def test_settings_that_change_at_an_unmeasured_step_are_recorded(tmp_path: Path, kind: str) -> None:
    model, optimizer, w = simple(tmp_path, every=NEVER)
    if kind == "a tensor in place":
        optimizer.param_groups[0]["lr"] = torch.tensor(0.05)
    with w:
        for step in range(100):
            if step == 60:
                group = optimizer.param_groups[0]
                if kind == "a number":
                    group["lr"] = 0.5
                elif kind == "a tensor in place":
                    group["lr"].fill_(0.5)
                else:
                    optimizer.param_groups[0] = {**group, "lr": 0.5}
            optimizer.zero_grad()
            w.step(*one_backward(model))
            optimizer.step()
    assert w.run is not None
    found = w.run.hyperparameters
    assert found is not None
    rates = {step: float(found.at(step)[0].learning_rate) for step in found.steps}
    assert rates == pytest.approx({0: 0.05, 60: 0.5})


@pytest.mark.parametrize(("accumulation", "most"), [(1, 5), (4, 13)])
def test_an_unmeasured_step_makes_few_calls(tmp_path: Path, accumulation: int, most: int) -> None:
    model, optimizer, w = simple(tmp_path, every=NEVER, accumulation=accumulation)
    w.load_state_dict({"steps": 10_000})  # late steps do not read the settings each time
    counts = []
    with w:
        for _ in range(50):
            optimizer.zero_grad()
            for _ in range(accumulation):
                loss, batch = one_backward(model, share=1 / accumulation)
                counts.append(calls_of(lambda loss=loss, batch=batch: w.step(loss, batch)))
            optimizer.step()
    assert statistics.median(counts) <= most  # the call of `step` among them


def test_losses_of_single_examples_cost_no_error_of_torch_a_step(tmp_path: Path) -> None:
    model, optimizer, w = simple(tmp_path, every=NEVER)
    errors, given = [], []

    def notice(frame: FrameType, event: str, what: object) -> None:
        if event == "c_exception" and getattr(what, "__name__", "") == "item":
            errors.append(what)

    with w:
        for _ in range(50):
            optimizer.zero_grad()
            batch = (torch.randn(8, 8), torch.randint(5, (8,)))
            losses = torch.nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="none")
            losses.mean().backward()
            given.append(losses.mean().item())
            sys.setprofile(notice)
            w.step(losses, batch)
            sys.setprofile(None)
            optimizer.step()
    assert w.run is not None and w.run.losses[1].tolist() == given
    assert len(errors) <= 1


def test_a_step_with_a_new_learning_rate_makes_few_calls(tmp_path: Path) -> None:
    model, optimizer, w = simple(tmp_path, every=NEVER)
    counts = []
    with w:
        for step in range(60):
            optimizer.param_groups[0]["lr"] = 0.05 / (1 + step)
            optimizer.zero_grad()
            loss, batch = one_backward(model)
            counts.append(calls_of(lambda loss=loss, batch=batch: w.step(loss, batch)))
            optimizer.step()
    assert (
        w.run is not None
        and w.run.hyperparameters is not None
        and len(w.run.hyperparameters.steps) == 60
    )
    assert statistics.median(counts) <= 110  # 98 of the package, the call of `step` among them


def test_the_losses_of_all_backwards_of_a_step_are_averaged(tmp_path: Path) -> None:
    model, optimizer, w = simple(tmp_path, every=NEVER, accumulation=3)
    given = []
    with w:
        for step in range(150):
            optimizer.zero_grad()
            sizes = 8, 8, 4 + step % 3
            losses = []
            for size in sizes:
                loss, batch = one_backward(model, size, share=1 / 3)
                w.step(loss, batch)
                losses.append(loss.item())
            optimizer.step()
            given.append(
                sum(size * one for size, one in zip(sizes, losses, strict=True)) / sum(sizes)
            )
    assert w.run is not None
    steps, losses = w.run.losses
    assert steps.tolist() == list(range(150)) and losses.tolist() == pytest.approx(given, rel=1e-12)


def calls_of(work: Callable[[], object]) -> int:
    """The calls of functions of Python and of C that the package makes, without those that check
    types in tests."""
    own, seen = str(Path(gradiometer.__file__).parent), list[str]()

    def look(frame: FrameType, event: str, _: object) -> None:
        if event in ("call", "c_call") and frame.f_code.co_filename.startswith(own):
            seen.append(event)

    sys.setprofile(look)
    try:
        work()
    finally:
        sys.setprofile(None)
    return len(seen)


def test_after_a_measured_step_torch_calls_nothing_in_backward(tmp_path: Path) -> None:
    """An empty list of hooks still costs a call into Python for every parameter."""
    model, optimizer, w = simple(tmp_path, every=5)
    seen: list[int] = []
    users, *others = list(model.parameters())
    users.register_hook(lambda gradient: seen.append(1))
    with w:
        for _ in range(7):
            optimizer.zero_grad()
            w.step(*one_backward(model))
            optimizer.step()
        assert all(parameter._backward_hooks is None for parameter in others)
        assert users._backward_hooks and len(seen) >= 7
