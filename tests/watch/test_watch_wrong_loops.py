"""Loops that are not what they were said to be: the readings are right all the same, or the run
says that they are not."""

from pathlib import Path
from typing import Any

import pytest
import torch

from gradients_by_hand import LOSSES, assert_read, backward, batches, by_hand, network, watched
from gradiometer import BadArgument
from gradiometer.verdict import say

# Accumulation
# --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("loss", [LOSSES, None], ids=["loss", "no loss"])
@pytest.mark.parametrize("share", [0.25, 1.0, 0.5])
def test_gradients_accumulated_by_sum_are_read_as_their_mean(
    tmp_path: Path, loss: Any, share: float
) -> None:
    made = model, optimizer = network()
    expected = []
    with watched(tmp_path, made, accumulation=4, loss=loss) as w:
        ahead = iter(batches(12))
        for _ in range(3):
            optimizer.zero_grad()
            parts = [next(ahead) for _ in range(4)]
            expected.append(by_hand(model, parts))
            for part in parts:
                w.step(backward(model, part, share), part)
            optimizer.step()
    assert_read(w, expected)
    assert w.run.series("noise").learning_rate == pytest.approx(0.05 * share * 4)
    assert [text.split(" times")[0] for text in w.findings().warnings] == (
        [] if share == 0.25 else [f"gradients are accumulated as {4 * share:g}"]
    )


def test_a_sum_of_losses_makes_the_steps_of_adam_no_longer(tmp_path: Path) -> None:
    """The rate of a sum over four backwards counted four times, and the warning said so."""
    model, _ = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.001)
    with watched(tmp_path, (model, optimizer), accumulation=4, loss=None) as w:
        ahead = iter(batches(12))
        for _ in range(3):
            optimizer.zero_grad()
            for _ in range(4):
                part = next(ahead)
                w.step(backward(model, part, 1.0), part)
            optimizer.step()
    assert w.run.series("noise").learning_rate == pytest.approx(0.001)
    assert "under SGD the learning rate counts 4 times" in w.findings().warnings[0]


def test_a_term_that_is_added_to_the_loss_is_no_factor(tmp_path: Path) -> None:
    made = model, optimizer = network()
    with watched(tmp_path, made, accumulation=2, loss=None) as w:
        for first, second in zip(batches(4), reversed(batches(4)), strict=True):
            optimizer.zero_grad()
            for batch in (first, second):
                loss = LOSSES(model, batch).mean()
                ((loss + model[0].weight.square().sum()) / 2).backward()
                w.step(loss, batch)
            optimizer.step()
    assert w.findings().warnings == () and len(w.run.series("noise")) == 4


def test_a_loss_that_was_divided_before_step_is_refused_or_not_measured(tmp_path: Path) -> None:
    def go(loss: Any, given: float) -> Any:
        made = model, optimizer = network()
        with watched(tmp_path, made, accumulation=4, loss=loss) as w:
            ahead = iter(batches(8))
            for _ in range(2):
                optimizer.zero_grad()
                for _ in range(4):
                    batch = next(ahead)
                    value = LOSSES(model, batch).mean() * (1 if given == 1 else 0.25)
                    value.backward()
                    w.step(value / (4 if given == 1 else 1), batch)
                optimizer.step()
        return w

    with pytest.raises(BadArgument, match="before it is divided for accumulation"):
        go(LOSSES, 0.25)
    with pytest.raises(BadArgument, match="before it is divided for accumulation"):
        go(None, 1)
    w = go(None, 0.25)
    assert (
        "either divided by 4 before, or never" in w.findings().warnings[0]
        and w.run.series("noise") is None
    )


def test_more_accumulation_than_backwards_is_told(tmp_path: Path) -> None:
    made = model, optimizer = network()
    with watched(tmp_path, made, accumulation=4) as w:
        for batch in batches(6):
            optimizer.zero_grad()
            w.step(backward(model, batch), batch)
            optimizer.step()
    (told,) = w.findings().warnings
    assert "`accumulation` is 4, but 3 updates in a row took 1 backward" in told


def test_a_short_update_at_the_end_of_each_epoch_is_normal(tmp_path: Path) -> None:
    made = model, optimizer = network()
    with watched(tmp_path, made, accumulation=2, examples=24) as w:
        for _ in range(5):
            for count in (2, 1):
                optimizer.zero_grad()
                for batch in batches(count):
                    w.step(backward(model, batch, 1 / 2), batch)
                optimizer.step()
    assert w.findings().warnings == ()


@pytest.mark.slow
@pytest.mark.parametrize("divided", [False, True])
def test_training_on_the_sum_over_a_batch_is_named(tmp_path: Path, divided: bool) -> None:
    made = model, optimizer = network(0.005)
    with watched(tmp_path, made) as w:
        for batch in batches(60):
            optimizer.zero_grad()
            loss = LOSSES(model, batch).sum()
            loss.backward()
            w.step(loss / 8 if divided else loss, batch)
            optimizer.step()
    (told,) = w.findings().warnings
    assert "the sum over the 8 examples of a batch" in told
    if divided:
        assert (
            "divide the learning rate that is advised" in told and len(w.run.series("noise")) == 60
        )
    else:
        assert "give `step` the mean, which is the sum divided by 8" in told
        assert all("No verdict" in say(finding).seen for finding in w.findings())


def test_a_gradient_that_a_forgotten_scaler_made_longer_is_no_sum(tmp_path: Path) -> None:
    made = model, optimizer = network(0.005)
    with watched(tmp_path, made) as w:
        for batch in batches(3):
            optimizer.zero_grad()
            w.step(backward(model, batch, share=1024.0), batch)
            optimizer.step()
    (told,) = w.findings().warnings
    assert "give the scaler as `scaler`" in told and "sum" not in told


# Gradients and batches
# ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("zeroed", ["before", "after", "to zeros", "never"])
def test_a_forgotten_zero_grad_is_told(tmp_path: Path, zeroed: str) -> None:
    made = model, optimizer = network()
    with watched(tmp_path, made) as w:
        for batch in batches(4):
            if zeroed == "before":
                optimizer.zero_grad()
            w.step(backward(model, batch), batch)
            optimizer.step()
            if zeroed in ("after", "to zeros"):
                optimizer.zero_grad(set_to_none=zeroed == "after")
    assert [
        "call `optimizer.zero_grad()` before each update" in text for text in w.findings().warnings
    ] == ([True] if zeroed == "never" else [])


def test_the_gradients_of_another_network_that_pass_through_this_one_are_no_forgotten_zero_grad(
    tmp_path: Path,
) -> None:
    critic, optimizer = made = network()
    other = torch.nn.Linear(8, 8).double()
    with watched(tmp_path, made) as w:
        for batch in batches(4):
            optimizer.zero_grad()
            w.step(backward(critic, batch), batch)
            optimizer.step()
            critic(other(batch[0])).mean().backward()
    assert not any("zero_grad" in text for text in w.findings().warnings)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_an_empty_batch_is_skipped_with_one_warning(tmp_path: Path, accumulation: int) -> None:
    made = model, optimizer = network()
    with watched(tmp_path, made, accumulation=accumulation) as w:
        for step, batch in enumerate(batches(8)):
            optimizer.zero_grad()
            for _ in range(accumulation):
                if step in (0, 3, 5):
                    w.step(torch.tensor(float("nan")), (batch[0][:0], batch[1][:0]))
                else:
                    w.step(backward(model, batch, 1 / accumulation), batch)
            optimizer.step()
    assert w.findings().warnings == ("`batch` is empty: such steps are not recorded",)
    assert len(w.run.series("noise")) == 5
