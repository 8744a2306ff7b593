"""Warnings of a watched loop arrive: in findings, in `logging` and on the page; and verdicts that
do not hold are not given."""

import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gradients_by_hand import LOSSES, backward, batches, network, watched
from gradiometer import Unsupported, diagnose, supervised, watch
from gradiometer.integrations.watch import Watch
from gradiometer.integrations.watch.observers.nonfinite import culprit
from gradiometer.loop.replay import all_tensors
from gradiometer.measurement import Objective, State
from gradiometer.report.page.page import render
from gradiometer.verdict import say


def preference(model: nn.Module, batch: Any) -> Tensor:
    """Another loss than the trained one."""
    return -0.1 * LOSSES(model, batch)


def through(
    w: Watch,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    steps: int,
    given: Callable[[int, Any], Any] | None = None,
) -> None:
    with w:
        for step, batch in enumerate(batches(steps)):
            optimizer.zero_grad()
            w.step(backward(model, batch), batch if given is None else given(step, batch))
            optimizer.step()


@pytest.mark.slow
def test_no_verdict_is_given_while_the_measured_loss_is_not_the_trained_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = network()
    w = watched(tmp_path, made, loss=preference, gauges="noise,batch_sharpness", parts=2)
    with caplog.at_level(logging.WARNING, "gradiometer"):
        through(w, *made, 60)
    assert (
        len(caplog.messages) == 1 and "give `watch` the loss that is trained" in caplog.messages[0]
    )
    found = w.findings()
    assert str(found).startswith("! warning: the loss given to `watch` is")
    assert {finding.state for finding in found} == {State.CANNOT_TELL}
    assert all(
        "No verdict: the readings describe another loss" in say(finding).seen for finding in found
    )
    # the warning is not repeated
    assert str(found).count("is trained;") + str(found).count("give `watch` the loss") == 1
    diagnosis = diagnose(w.run)
    assert "; no verdict: the loss given to `watch` is" in diagnosis.verdict
    page = render(w.run, diagnosis)
    assert page.index("give <code>watch</code> the loss that is trained") < page.index(
        'class="rows"'
    )


class Dropped(nn.Sequential):
    """A network with Dropout."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(8, 16), nn.Tanh(), nn.Dropout(0.3), nn.Linear(16, 5))
        self.double()


@pytest.mark.parametrize("loss", [LOSSES, preference])
def test_another_loss_is_found_under_dropout_too(tmp_path: Path, loss: Any) -> None:
    torch.manual_seed(0)
    model = Dropped()
    made: Any = model, torch.optim.SGD(model.parameters(), lr=0.05)
    w = watched(tmp_path, made, loss=loss, parts=2)
    through(w, *made, 3)
    assert bool(w.findings().warnings) == (loss is preference), w.findings().warnings


@pytest.mark.slow
def test_a_batch_that_is_no_longer_the_trained_one_is_found_later(tmp_path: Path) -> None:
    made = network()
    other = tuple(10 * part for part in batches(1)[0][:1]) + batches(1)[0][1:]
    w = watched(tmp_path, made, parts=2, examples=960)
    through(w, *made, 120, lambda step, batch: batch if step < 40 else other)
    assert any(
        "they were equal at the first measured step" in told for told in w.findings().warnings
    )


@pytest.mark.parametrize("fails_from", [1, 12])
def test_a_gauge_that_has_stopped_says_why(tmp_path: Path, fails_from: int) -> None:
    made = network()
    fails = False

    def loss(model: nn.Module, batch: Any) -> Tensor:
        if fails:
            raise RuntimeError("no kernel for this shape")
        return LOSSES(model, batch)

    def begin(step: int, batch: Any) -> Any:
        nonlocal fails
        fails = step >= fails_from
        return batch

    w = watched(tmp_path, made, loss=loss, parts=2)
    through(w, *made, 20, begin)
    (finding,) = [each for each in w.findings() if each.gauge != "triage"]
    where = "seen" if finding.state is State.CANNOT_TELL else "caveat"
    assert where == "caveat" or "no more will come" in say(finding).means
    stopped = re.search(r"step (\d+): noise is no longer measured", getattr(say(finding), where))
    # the loss is run again at readings 1, 2, 4, …
    assert stopped is not None and fails_from <= int(stopped[1]) <= 17
    assert "no kernel" in getattr(say(finding), where)


def test_a_gauge_that_stopped_before_its_first_reading_has_a_finding(tmp_path: Path) -> None:
    model, optimizer = network()
    fixed: Any = lambda model, batch: LOSSES(model, batch) if len(batch[0]) == 8 else 1 / 0  # noqa: E731
    with watch(model, optimizer, loss=fixed, out=tmp_path, every=3, gauges="noise") as w:
        w.shield.before_first_update = False
        for batch in batches(4):
            optimizer.zero_grad()
            w.step(backward(model, batch), batch)
            optimizer.step()
    assert "measuring has stopped at step" in w.findings().warnings[0]
    (noise,) = [finding for finding in w.findings() if finding.gauge == "noise"]
    assert "ZeroDivisionError" in say(noise).seen
    assert "Stopped at step" in say(noise).seen or "stopped at step" in diagnose(w.run).verdict


def test_a_batch_whose_numbers_cannot_be_read_is_named_as_the_reason() -> None:
    objective = Objective(nn.Linear(4, 3), supervised(nn.CrossEntropyLoss(reduction="none")))
    place, kind = culprit(objective, (torch.zeros(2, 4, device="meta"), torch.zeros(2).long()))
    assert kind == "unknown"
    assert "could not be run again to find the layer (RuntimeError: Tensor.item()" in place


def test_an_optimizer_that_keeps_the_state_of_a_layer_that_went_is_named() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 1))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(8, 4)).sum().backward()
    optimizer.step()
    model[1] = nn.Linear(4, 1)
    optimizer.param_groups[0]["params"] = [*model.parameters()]
    with pytest.raises(Unsupported, match="state of a parameter that is in none of its groups"):
        all_tensors(model, optimizer)
