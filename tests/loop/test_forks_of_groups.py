"""Rows that belong together are one example of a fork: lengths count examples, and no update has
half of one."""

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from gradiometer import BadArgument, supervised, watch
from gradiometer.loop import Fork, Loop, fork
from gradiometer.loop.stream import Stream

PAIRS, SIZE = 96, 8
FIRST = torch.randn(PAIRS, 6, generator=torch.Generator().manual_seed(1))
VIEWS = torch.stack(
    [FIRST, FIRST + 0.1 * torch.randn(FIRST.shape, generator=torch.Generator().manual_seed(2))]
)


def two_views(chosen: list[tuple[Tensor]]) -> Tensor:
    """All first views, and then all second ones, as most contrastive loops stack them."""
    places = torch.stack([place for (place,) in chosen])
    return torch.cat([VIEWS[0, places], VIEWS[1, places]])


def by_row(batch: Tensor) -> Tensor:
    """The example of each row of two stacked views, whatever the size of the batch."""
    return torch.arange(len(batch)) % (len(batch) // 2)


def contrastive(model: nn.Module, batch: Tensor) -> Tensor:
    one, two = functional.normalize(model(batch)).chunk(2)
    return functional.cross_entropy(one @ two.T / 0.1, torch.arange(len(one)))


def loader() -> "DataLoader[Any]":
    return DataLoader(TensorDataset(torch.arange(PAIRS)), SIZE, shuffle=True, collate_fn=two_views)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(6, 4)


def forked(alternatives: list[str], **settings: Any) -> tuple[Loop, Fork]:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loop = Loop(model, optimizer, loss=contrastive, batches=loader(), **settings)
    return loop, fork(loop, alternatives, horizon="4 updates", replicates=2)


def test_a_length_in_updates_is_that_many_updates_of_examples() -> None:
    loop, found = forked(["rate 2x"], groups=by_row)
    assert (loop.size, loop.epoch) == (SIZE, PAIRS)
    assert {(result.updates, result.examples) for result in found.results} == {(4, 4 * SIZE)}


@pytest.mark.parametrize("factor", [0.5, 2])
def test_a_cut_or_joined_batch_has_both_views_of_each_example_in_the_order_of_the_loss(
    factor: float,
) -> None:
    stream = Stream(iter(loader()), groups=by_row)
    for _ in range(3):
        (batch,) = stream.take(factor)
        assert len(batch) == 2 * SIZE * factor
        one, two = batch.chunk(2)
        places = [int((row == FIRST).all(dim=1).nonzero()) for row in one]
        assert torch.equal(two, VIEWS[1, places])


def test_the_end_of_a_branch_cuts_between_examples() -> None:
    stream = Stream(iter([torch.arange(8)]), groups=lambda batch: [0, 1, 2, 3, 0, 1, 2, 3])
    before = stream.examples
    (batch,) = stream.take(1, most=3)
    assert stream.examples == before + 3 and batch.tolist() == [0, 1, 2, 4, 5, 6]


def test_copies_that_follow_each_other_stay_together() -> None:
    stream = Stream(iter([torch.arange(8), torch.arange(8, 16)]), groups=2)
    assert [stream.take(0.5)[0].tolist() for _ in range(2)] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert stream.take(1)[0].tolist() == list(range(8, 16))


def test_a_readout_has_one_value_for_each_example() -> None:
    criterion = supervised(nn.MSELoss(reduction="none"))
    inputs = torch.arange(12.0)[:, None]
    rows = (inputs, torch.zeros(12))

    def batches(seed: int) -> Iterator[Any]:
        while True:
            yield rows

    model = nn.Sequential(nn.Linear(1, 1), nn.Flatten(0))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    loop = Loop(model, optimizer, loss=criterion, batches=batches, groups=3, readout_examples=4)
    readout = loop.readouts(model)["train_loss"]
    each = criterion(model, rows).detach().reshape(4, 3).mean(dim=1)
    assert readout.values == pytest.approx(each.numpy(), rel=1e-6)


def test_a_watch_hands_its_groups_to_its_forks() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with watch(model, optimizer, loss=contrastive, groups=by_row, page=False, quiet=True) as w:
        for batch in loader():
            optimizer.zero_grad()
            loss = contrastive(model, batch)
            loss.backward()
            w.step(loss, batch)
            optimizer.step()
        found = w.fork(batches=loader(), alternatives=["batch 0.5x"], horizon="4 updates")
    assert found is not None
    assert {result.examples for result in found.results} == {4 * SIZE}
    assert {result.updates for result in found.of("batch 0.5x")} == {8}


def test_rows_that_are_drawn_one_by_one_cannot_be_grouped() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(
        BadArgument, match="`groups` needs batches that hold the rows of an example"
    ):
        Loop(model, optimizer, loss=contrastive, batches=(FIRST,), batch_size=8, groups=2)
    with pytest.raises(BadArgument, match="`groups` must be"):
        Loop(model, optimizer, loss=contrastive, batches=loader(), groups=1)
    with pytest.raises(BadArgument, match=r"`groups` returned labels of shape \[3\] for 16 rows"):
        Loop(model, optimizer, loss=contrastive, batches=loader(), groups=lambda batch: [0, 1, 2])


def pairs(model: nn.Module, batch: Any) -> Tensor:
    """A contrastive loss of pairs, each of which is one row."""
    one, two = (functional.normalize(model(view)) for view in batch)
    return functional.cross_entropy(one @ two.T / 0.1, torch.arange(len(one)), reduction="none")


def test_a_loss_that_changes_with_the_batch_is_read_out_on_batches_of_training() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    rows = DataLoader(TensorDataset(VIEWS[0], VIEWS[1]), SIZE, shuffle=True)
    held_out = VIEWS[0][:32] + 0.1, VIEWS[1][:32]
    loop = Loop(model, optimizer, loss=pairs, batches=rows, evaluate=held_out)
    found = fork(loop, ["batch 2x", "batch 4x"], horizon="48 updates", replicates=2)
    by_hand = copy.deepcopy(model).eval()
    with torch.no_grad():
        eights = [
            float(pairs(by_hand, [view[start : start + 8] for view in held_out]).mean())
            for start in range(0, 32, 8)
        ]
    start = loop.readouts(model.eval())["test_loss"].mean
    assert start == pytest.approx(sum(eights) / 4)
    for name in found.names:
        for result in found.of(name):
            # a batch of 32 without any learning would have log 32, which is 3.5, and one of 8 has 2.1
            assert (
                result.readouts["train_loss"].mean < 2.1 and result.readouts["test_loss"].mean < 2.1
            )
    assert found.warnings[0].startswith("The loss of a batch is not the mean of those")
    assert "on batches of the size that training has now" in str(found).splitlines()[0]


@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_a_loss_of_single_examples_is_read_out_at_once(noise: float) -> None:
    model = nn.Linear(6, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    rows = DataLoader(TensorDataset(FIRST, FIRST.sum(dim=1, keepdim=True)), SIZE, shuffle=True)
    sizes = []

    def loss(model: nn.Module, batch: Any) -> Tensor:
        sizes.append(len(batch[0]))
        drawn = noise * torch.randn(batch[1].shape)
        return functional.mse_loss(model(batch[0]), batch[1] + drawn)

    loop = Loop(model, optimizer, loss=loss, batches=rows)
    loop.readouts(model)
    assert sizes[-1] == PAIRS and loop.warnings == ()
