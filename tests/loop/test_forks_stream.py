"""The stream of a fork: nested batches, and data that can be replayed in the order of a seed."""

import random
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from gradiometer import BadArgument
from gradiometer.loop.data import data_of
from gradiometer.loop.horizon import Horizon
from gradiometer.loop.stream import Stream


def batches(count: int = 12, size: int = 4) -> Iterator[torch.Tensor]:
    return iter(torch.arange(count * size).split(size))


def examples(factor: float, updates: int) -> list[list[int]]:
    stream = Stream(batches())
    return [[int(one) for piece in stream.take(factor) for one in piece] for _ in range(updates)]


@pytest.mark.parametrize("factor", [0.25, 0.5, 1, 1.5, 2, 3])
def test_batches_of_any_size_see_the_same_examples_in_the_same_order(factor: float) -> None:
    taken = examples(factor, updates=int(12 / factor))
    assert [one for batch in taken for one in batch] == list(range(48))
    assert {len(batch) for batch in taken} == {int(4 * factor)}


def test_a_batch_at_the_end_of_an_epoch_keeps_its_size() -> None:
    stream = Stream(iter([torch.arange(4), torch.arange(4, 6), torch.arange(4)]))
    assert [len(stream.take(1)[0]) for _ in range(3)] == [4, 2, 4]
    stream = Stream(iter([torch.arange(4), torch.arange(4, 6), torch.arange(4)]))
    assert [len(stream.take(0.5)[0]) for _ in range(6)] == [2, 2, 1, 1, 2, 2]


def test_micro_batches_keep_their_size_and_their_number_grows() -> None:
    stream = Stream(batches(), accumulation=2)
    assert [len(piece) for piece in stream.take(2)] == [4, 4, 4, 4]
    assert [len(piece) for piece in stream.take(0.5)] == [4]
    assert stream.original == 2.5 and stream.examples == 20


def test_the_last_batch_is_cut_at_the_horizon() -> None:
    stream = Stream(batches())
    (batch,) = stream.take(3, most=10)
    assert stream.examples == 10 and batch.tolist() == list(range(10))


def test_skipped_updates_move_the_data_on() -> None:
    stream = Stream(batches())
    stream.skip(1, 3)
    taken = [stream.take(1) for _ in range(4)]
    assert [[piece.tolist() for piece in one] for one in taken] == [
        [[0, 1, 2, 3]],
        [],
        [],
        [[12, 13, 14, 15]],
    ]
    assert stream.examples == 16


def test_batches_that_differ_in_shape_stay_apart() -> None:
    stream = Stream(iter([torch.zeros(2, 3), torch.zeros(2, 5)]))
    assert [tuple(piece.shape) for piece in stream.take(2)] == [(2, 3), (2, 5)]


def test_data_that_end_are_named() -> None:
    stream = Stream(batches(2))
    stream.take(2)
    with pytest.raises(
        BadArgument, match=r"`horizon` is beyond the data: `batches` ended after 8 examples"
    ):
        stream.take(1)


def test_a_batch_too_small_for_its_parts_is_named() -> None:
    with pytest.raises(BadArgument, match="of 4 examples cannot be cut into 8 parts"):
        Stream(batches()).take(1 / 8)


class Augmented(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Draws from the global random states of torch, NumPy and Python for every example."""

    def __len__(self) -> int:
        return 20

    def __getitem__(self, place: int) -> tuple[torch.Tensor, torch.Tensor]:
        noise = torch.randn(()) + random.random() + np.random.rand()  # noqa: NPY002
        return noise, torch.tensor(place)


def drawn(
    data: object, seed: int, size: int | None = None, disturb: bool = False
) -> list[torch.Tensor]:
    replayed, found = data_of(data, size).batches(seed), []
    for _ in range(7):
        batch = next(replayed)
        found.append(torch.stack([part.double() for part in batch]))
        if disturb:
            torch.rand(1), random.random(), np.random.rand()  # noqa: NPY002
    return found


SETS = {
    "tensors": TensorDataset(torch.randn(20), torch.arange(20)),
    "data set": Augmented(),
}


@pytest.mark.parametrize("dataset", SETS.values(), ids=SETS)
@pytest.mark.parametrize("kind", ["loader", "weighted", "examples", "function"])
def test_a_seed_replays_its_order_whatever_the_model_draws(
    dataset: "Dataset[object]", kind: str
) -> None:
    weighted = WeightedRandomSampler([1.0] * 20, 20)
    data, size = {
        "loader": (DataLoader(dataset, batch_size=3, shuffle=True), None),
        "weighted": (DataLoader(dataset, batch_size=3, sampler=weighted), None),
        "examples": (dataset, 3),
        "function": (lambda seed: iter(DataLoader(dataset, batch_size=2, shuffle=True)), None),
    }[kind]
    before = torch.get_rng_state()
    first = drawn(data, 1, size)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(map(torch.equal, first, drawn(data, 1, size, disturb=True)))
    assert not all(map(torch.equal, first, drawn(data, 2, size)))


def test_every_epoch_of_a_loader_has_every_example_once() -> None:
    loader = DataLoader(TensorDataset(torch.arange(10)), batch_size=4, shuffle=True)
    data = data_of(loader, None)
    replayed = data.batches(0)
    epochs = [torch.cat([next(replayed)[0] for _ in range(3)]) for _ in range(2)]
    assert data.epoch == 10 and data.size == 4
    assert all(sorted(epoch.tolist()) == list(range(10)) for epoch in epochs) and not torch.equal(
        *epochs
    )


def test_a_list_of_batches_gets_a_new_order_in_every_epoch() -> None:
    listed = [torch.full((2,), place) for place in range(8)]
    replayed = data_of(listed, None).batches(3)
    orders = [[int(next(replayed)[0]) for _ in range(8)] for _ in range(2)]
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(8)) and orders[0] != orders[1]


class Endless(IterableDataset[int]):
    def __iter__(self) -> Iterator[int]:
        return iter(range(10))


UNUSABLE = {
    "iterable data set": (
        DataLoader(Endless()),
        "IterableDataset, which cannot be replayed: give batches=lambda seed",
    ),
    "order": (
        DataLoader(range(9), batch_size=2),
        "SequentialSampler, whose order does not depend on a seed",
    ),  # type: ignore[arg-type]
    "batch sampler": (
        DataLoader(range(9), batch_sampler=[[0, 1], [2]]),  # type: ignore[arg-type]
        "list, whose order does not depend on a seed",
    ),
    "generator": (iter([torch.ones(2)]), "cannot be replayed: give batches=lambda seed"),
    "examples": ((torch.ones(4), torch.ones(4)), "`batch_size` is missing"),
    "number": (3, "int, which cannot be replayed"),
}


@pytest.mark.parametrize(("given", "message"), UNUSABLE.values(), ids=UNUSABLE)
def test_data_that_cannot_be_replayed_are_refused_with_what_to_give(
    given: object, message: str
) -> None:
    with pytest.raises(BadArgument, match=message):
        data_of(given, None)


def test_a_sampler_of_torch_inside_a_batch_sampler_can_be_replayed() -> None:
    dataset = TensorDataset(torch.arange(10))
    sampler = BatchSampler(RandomSampler(dataset), 4, drop_last=True)
    assert data_of(DataLoader(dataset, batch_sampler=sampler), None).size == 4
    with pytest.raises(BadArgument, match="SequentialSampler"):
        data_of(
            DataLoader(dataset, batch_sampler=BatchSampler(SequentialSampler(dataset), 4, True)),
            None,
        )


@pytest.mark.parametrize(
    ("text", "expected"),
    {
        "500 updates": 5_000,
        "64_000 examples": 64_000,
        "1.5 epochs": 150,
        "2 s": 400,
        "1 min": 12_000,
        "25%": 300,
        "3 examples": 10,
        "64 examples": 60,
    }.items(),
)
def test_a_horizon_is_counted_in_examples(text: str, expected: int) -> None:
    horizon = Horizon.parse(text)
    assert (
        horizon.examples(batch=10, epoch=100, left=1_200, seconds_per_update=lambda: 0.05)
        == expected
    )


def test_all_that_is_left_is_not_rounded_to_more() -> None:
    whole, more = Horizon.parse("100%"), Horizon.parse("101%")
    assert whole.examples(batch=10, left=97) == 97
    assert more.examples(batch=10, left=97) == 100  # refused by those who know what is left


@pytest.mark.parametrize(
    "text",
    ["500", "nan updates", "0 epochs", "-3 updates", "1e400 updates", "12 parsecs", 500, None],
)
def test_a_horizon_without_a_unit_is_refused(text: object) -> None:
    with pytest.raises(BadArgument, match="`horizon`"):
        Horizon.parse(text)


@pytest.mark.parametrize(
    ("text", "way"), [("2 epochs", "in updates"), ("25%", "give `left`"), ("3 s", "in updates")]
)
def test_a_horizon_that_needs_more_says_what(text: str, way: str) -> None:
    with pytest.raises(BadArgument, match=way):
        Horizon.parse(text).examples(batch=10)


@pytest.mark.parametrize("text", ["1e308 updates", "1e308 epochs", "1e307 min", "1e19 examples"])
def test_a_horizon_that_no_number_of_examples_can_have_is_refused(text: str) -> None:
    with pytest.raises(BadArgument, match=r"`horizon` is .* examples: give a length below 2\^63"):
        Horizon.parse(text).examples(batch=10, epoch=1_000, seconds_per_update=lambda: 1e-3)
