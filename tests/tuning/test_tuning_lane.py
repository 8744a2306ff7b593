"""A lane of a race: how it is judged, and when it is stuck."""

import math

import pytest
import torch
from torch import nn

from gradiometer import supervised
from gradiometer.loop import Loop
from gradiometer.tuning import tune
from gradiometer.tuning.lane import LIMIT, LoopLane, MeanParameters, judge
from gradiometer.tuning.optimizers import variants
from gradiometer.tuning.tuned import Tried

SQUARED = supervised(nn.MSELoss(reduction="none"))


@pytest.mark.parametrize("frozen", [False, True])
def test_a_lane_with_batch_norm_is_judged_by_statistics_of_its_mean_parameters(
    frozen: bool,
) -> None:
    """Unless its statistics are kept as they are, here 0 and 1."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 1), nn.Flatten(0)
    )
    model[1].train(not frozen)
    inputs = 3 + torch.randn(64, 3)
    targets = inputs.sum(1)
    [made] = variants("sgd", 0.9, True, 0.0)
    loop = Loop(
        model,
        made(model.parameters(), 0.002),
        loss=SQUARED,
        batches=(inputs, targets),
        batch_size=16,
    )
    lane = LoopLane(loop, made, 0.002, 16, 40)
    lane.stops.append(20)
    end, _ = judge(lane, 64, None)
    # the same lane by hand, whose statistics are those of all examples
    again, mean = LoopLane(loop, made, 0.002, 16, 40), MeanParameters(20, 0)
    again.stops.append(20)
    assert again.advance(mean) is not None
    copy = again.loop.model
    mean.into(copy)
    with torch.no_grad():
        hidden = copy[0](inputs)
        normed = (hidden - hidden.mean(0)) / (hidden.var(0) + 1e-5).sqrt()
        if frozen:
            normed = hidden / math.sqrt(1 + 1e-5)
        output = copy[4](copy[3](copy[2](copy[1].weight * normed + copy[1].bias)))
    expected = float((output - targets).square().mean())
    assert end.readouts["train_loss"].mean == pytest.approx(expected, rel=1e-4)


def judged(gain: float, made: str = "sgd", unit: float = 1.0) -> Tried:
    """A lane of 20 of 40 updates whose loss is a sigmoid of the input times this number at first,
    in these units."""
    inputs = 1 + torch.rand(64, 1, generator=torch.Generator().manual_seed(0))
    model = nn.Linear(1, 1, bias=False)
    model.weight.data.fill_(gain)
    [kind] = variants(made, 0.9, True, 0.0)
    rate = 0.01 / unit
    loop = Loop(
        model,
        kind(model.parameters(), rate),
        loss=lambda model, batch: unit * torch.sigmoid(model(batch)).squeeze(1),
        batches=inputs,
        batch_size=16,
    )
    lane = LoopLane(loop, kind, rate, 16, 40)
    lane.stops.append(20)
    return Tried(lane, 20, judge(lane, 64, None)[0])


def test_a_lane_whose_gradient_has_vanished_is_stuck() -> None:
    """Above and below, where the sigmoid is flat; not where it is steep. The steps of AdamW do not
    vanish with the gradient: it comes down."""
    assert [judged(gain).is_stuck for gain in (-9.0, 0.0, 9.0)] == [True, False, True]
    assert not judged(9.0, "adamw").is_stuck
    assert "(its gradient has vanished) after 20 of 40 updates" in judged(9.0).sentence
    assert "vanished" not in judged(0.0).sentence


def test_what_a_lane_may_still_gain_is_in_the_unit_of_the_loss() -> None:
    one, other = (judged(-3.0, unit=unit).result.readouts[LIMIT].mean for unit in (1.0, 8.0))
    assert other == pytest.approx(8 * one, rel=1e-5)


def test_on_a_plane_the_most_that_may_be_gained_is_what_is_gained() -> None:
    """Without momentum, at a rate that stays."""
    inputs = torch.full((64, 3), 2.0)
    model = nn.Linear(3, 1)
    [made] = variants("sgd", 0.0, False, 0.0)
    loop = Loop(
        model,
        made(model.parameters(), 0.01),
        loss=lambda model, batch: model(batch).squeeze(1),
        batches=inputs,
        batch_size=16,
    )
    lane = LoopLane(loop, made, 0.01, 16, 40)
    lane.stops.append(20)
    end, _ = judge(lane, 64, None)
    before = lane.loop.model(inputs).mean().item()
    lane.stops.append(40)
    assert lane.advance() is not None
    after = lane.loop.model(inputs).mean().item()
    assert end.readouts[LIMIT].mean == pytest.approx(before - after, rel=1e-4)


def test_sparse_gradients_can_be_tuned() -> None:
    """Those of an embedding, without clipping, which torch has not for them."""
    numbers = torch.randint(50, (256, 4), generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(50, 3, sparse=True), nn.Flatten(), nn.Linear(12, 1))
    found = tune(
        model,
        loss=lambda model, batch: (model(batch).squeeze(1) - batch.float().mean(1) / 25).square(),
        batches=numbers,
        batch_size=16,
        steps=64,
        momentum=0.0,
        clip=None,
    )
    assert not any(one.is_stuck for rung in found.rungs for one in rung)


def test_the_mean_of_a_lane_leaves_out_frozen_parameters_of_any_type() -> None:
    model = nn.Linear(2, 1)
    model.codes = nn.Parameter(torch.tensor([3, 7], dtype=torch.uint8), requires_grad=False)
    mean = MeanParameters(4, 0)
    for update in range(1, 5):
        model(torch.ones(3, 2)).sum().backward()
        mean.take(model, update)
    mean.into(model)
    assert math.isnan(mean.gain) and model.codes.tolist() == [3, 7]
