"""Loops with more than one backward a step: the loss alone is measured, or the run says why not."""

import copy
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from gradients_by_hand import (
    LOSSES,
    Batch,
    assert_read,
    backward,
    batches,
    by_hand,
    examples,
    network,
    watched,
)
from gradiometer import BadArgument
from gradiometer.integrations.watch import Watch


def a_penalty_of_its_own(model: nn.Module, batch: Batch) -> Tensor:
    loss = backward(model, batch)
    (0.5 * sum(p.square().sum() for p in model.parameters())).backward()
    return loss


def an_attack_on_the_inputs(model: nn.Module, batch: Batch) -> Tensor:
    inputs = batch[0].clone().requires_grad_()
    LOSSES(model, (inputs, batch[1])).mean().backward()
    model.zero_grad()
    batch[0].add_(0.1 * inputs.grad.sign())
    return backward(model, batch)


def one_through_the_other_network_s_update(model: nn.Module, batch: Batch) -> Tensor:
    (-model(batch[0]).square().mean()).backward()
    model.zero_grad()
    return backward(model, batch)


def gradients_asked_for_beside(model: nn.Module, batch: Batch) -> Tensor:
    torch.autograd.grad(LOSSES(model, batch).sum(), [*model.parameters()])
    return backward(model, batch)


def two_pieces_of_one_loss(model: nn.Module, batch: Batch) -> Tensor:
    losses = LOSSES(model, batch)
    (losses[:3].sum() / len(losses)).backward(retain_graph=True)
    (losses[3:].sum() / len(losses)).backward()
    return losses.mean()


@pytest.mark.slow
@pytest.mark.parametrize("parts", [0, 2])
@pytest.mark.parametrize(
    "backwards",
    [
        a_penalty_of_its_own,
        an_attack_on_the_inputs,
        one_through_the_other_network_s_update,
        gradients_asked_for_beside,
        two_pieces_of_one_loss,
    ],
)
def test_of_several_backwards_before_one_step_the_loss_alone_is_measured(
    tmp_path: Path, backwards: Callable[[nn.Module, Batch], Tensor], parts: int
) -> None:
    """With halves the mean of both is the batch's gradient, whatever else was heard: ‖g‖² + tr Σ/B
    is ‖ĝ‖²."""
    made, alone = network(), network()
    expected = []
    with watched(tmp_path, made, parts=parts) as w:
        for batch, same in zip(batches(6), batches(6), strict=True):
            for (model, optimizer), one, told in ((made, batch, w), (alone, same, None)):
                optimizer.zero_grad()
                loss = backwards(model, one)
                if told:
                    expected.append(by_hand(model, examples(one)))
                    told.step(loss, one)
                optimizer.step()
    assert all(map(torch.equal, made[0].parameters(), alone[0].parameters()))
    assert [
        warning for warning in w.run.warnings if "several backwards went through `model`" in warning
    ]
    if parts == 0:
        assert_read(w, expected)
        return
    moments = w.run.series("noise").moments
    squared = moments["gradient_norm_squared"].sum(1) + moments["gradient_variance"].sum(1) / 8
    assert squared == pytest.approx([signal + trace / 8 for trace, signal in expected], rel=1e-9)
    assert (moments["gradient_variance"].sum(1) < 3 * max(trace for trace, _ in expected)).all()


@pytest.mark.parametrize(
    ("spoilt", "told"),
    [
        ("factor", "1024 times as long along it"),  # of a scaler that the watch was not given
        ("hook", "`backward` made another gradient than `loss` has"),
        ("batch", "give `step` the batch of that loss"),
    ],
)
def test_a_gradient_that_is_not_the_loss_s_is_told_and_not_taken_for_it(
    tmp_path: Path, spoilt: str, told: str
) -> None:
    made = model, optimizer = network()
    if spoilt == "hook":
        for parameter in model.parameters():
            parameter.register_hook(lambda gradient: gradient.clamp(-0.01, 0.01))
    ahead, expected = batches(7), []
    with watched(tmp_path, made, parts=2) as w:
        for batch, another in pairwise(ahead):
            optimizer.zero_grad()
            loss = backward(model, batch, 1024.0 if spoilt == "factor" else 1.0)
            given = another if spoilt == "batch" else batch
            expected.append(by_hand(copy.deepcopy(model), examples(given)))
            w.step(loss if spoilt != "batch" else LOSSES(model, another).mean(), given)
            if spoilt == "factor":
                for parameter in model.parameters():
                    parameter.grad /= 1024
            optimizer.step()
    assert told in w.run.warnings[0]
    moments = w.run.series("noise").moments
    squared = moments["gradient_norm_squared"].sum(1) + moments["gradient_variance"].sum(1) / 8
    assert squared == pytest.approx([signal + trace / 8 for trace, signal in expected], rel=1e-9)


def test_a_network_is_measured_through_another_that_trains_too(tmp_path: Path) -> None:
    made = model, optimizer = network()
    judge, expected = nn.Linear(5, 1).double(), []

    def losses(model: nn.Module, batch: Batch) -> Tensor:
        return nn.functional.softplus(-judge(model(batch[0])))[:, 0]

    with watched(tmp_path, made, loss=losses) as w:
        for batch in batches(3):
            optimizer.zero_grad()
            (loss := losses(model, batch).mean()).backward()
            kept = [p.grad.clone() for p in judge.parameters()]
            expected.append(
                float(torch.cat([p.grad.reshape(-1) for p in model.parameters()]).square().sum())
            )
            w.step(loss, batch)
            assert all(map(torch.equal, kept, [p.grad for p in judge.parameters()]))
            optimizer.step()
    moments = w.run.series("noise").moments
    assert moments["gradient_norm_squared"].sum(1) + moments["gradient_variance"].sum(
        1
    ) / 8 == pytest.approx(expected, rel=1e-9)


def test_an_update_of_two_gradients_such_as_sam_s_is_watched_at_the_first(tmp_path: Path) -> None:
    made = model, optimizer = network()
    expected = []
    with watched(tmp_path, made) as w:
        for batch in batches(6):
            optimizer.zero_grad()
            loss = backward(model, batch)
            expected.append(by_hand(model, examples(batch)))
            w.step(loss, batch)
            climbed = [0.05 * p.grad for p in model.parameters()]
            with torch.no_grad():
                torch._foreach_add_([*model.parameters()], climbed)
            optimizer.zero_grad()
            backward(model, batch)
            with torch.no_grad():
                torch._foreach_sub_([*model.parameters()], climbed)
            optimizer.step()
    assert_read(w, expected)
    assert w.run.warnings == []


def accumulated(
    tmp_path: Path, between: Callable[[nn.Module, torch.optim.Optimizer], None]
) -> Watch:
    """A loop of three backwards an update, and what else is done after it."""
    made = model, optimizer = network()
    ahead, expected = iter(batches(15)), []
    with watched(tmp_path, made, loss=None, accumulation=3) as w:
        for _ in range(5):
            parts = []
            for _ in range(3):
                parts.append(next(ahead))
                loss = backward(model, parts[-1], 1 / 3)
                if len(parts) == 3:
                    expected.append(by_hand(model, parts))
                w.step(loss, parts[-1])
            optimizer.step()
            between(model, optimizer)
    assert_read(w, expected, w.run.series("noise").steps.tolist())
    return w


def test_accumulated_backwards_that_do_not_add_up_to_training_s_gradient_are_not_measured(
    tmp_path: Path,
) -> None:
    def another_backward(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        model(torch.ones(2, 8, dtype=torch.float64)).square().mean().backward()
        optimizer.zero_grad()

    plain = accumulated(tmp_path, lambda model, optimizer: optimizer.zero_grad())
    assert len(plain.run.series("noise")) == 5 and plain.run.warnings == []
    zeros = accumulated(tmp_path, lambda model, optimizer: optimizer.zero_grad(set_to_none=False))
    assert len(zeros.run.series("noise")) == 5 and zeros.run.warnings == []
    for between in (lambda model, optimizer: None, another_backward):
        w = accumulated(tmp_path, between)
        assert w.run.series("noise").steps.tolist() == [0]
        (told,) = w.run.warnings
        assert "`.grad` is not the sum of the backwards that `step` was called after" in told
    made = model, _ = network()
    backward(model, batches(1)[0])
    with (
        watched(tmp_path, made, loss=None, accumulation=2) as w,
        pytest.raises(BadArgument, match="is not the sum of"),
    ):
        for batch in batches(2):
            w.step(backward(model, batch), batch)
