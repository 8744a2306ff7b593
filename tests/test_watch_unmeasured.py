"""Steps of a watched loop at which nothing is measured: what is kept, and what is noticed, for a few microseconds."""

from pathlib import Path

import pytest
import torch

from gradiometer import Run
from watched_loop import one_backward, simple

NEVER = 10**6


def test_losses_are_written_before_the_next_decision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gradiometer.integrations.watch.unmeasured.between.LOOK_SECONDS", 0.0)
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


@pytest.mark.parametrize("change", [7, 150, 390])
def test_another_optimizer_is_followed_from_its_first_updates_on(tmp_path: Path, change: int) -> None:
    model, optimizer, w = simple(tmp_path, every=NEVER)
    with w:
        for step in range(change + 3):
            if step == change:
                optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
            optimizer.zero_grad()
            w.step(*one_backward(model))
            optimizer.step()
            if w._optimizers[0] is optimizer and step >= change:
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
