"""The data of a fork: what a person gives as `batches`, replayed in the order of any seed."""

import copy
import itertools
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from gradiometer.arguments import check_whole
from gradiometer.errors import BadArgument
from gradiometer.loop.stream import Groups, Piece
from gradiometer.measurement.batch import Batch, Order, batch_size, join_batches, span
from gradiometer.measurement.reading import Draw
from gradiometer.problems.examples import Examples
from gradiometer.problems.user_code import user_code
from gradiometer.randomness import GlobalStates

INSTEAD = (
    "give batches=lambda seed: ..., a function that returns the batches in the order of a seed"
)


class Data(ABC):
    """The training data, replayed in the order of any seed.

    `epoch` is the number of examples in an epoch and `size` that in a batch, or None if they are
    not known. `groups` says which rows of a batch are one example. `shards` is the number of
    processes of the original training, each of which sees such a batch.
    """

    epoch: int | None = None
    size: int | None = None
    shards: int = 1
    groups: Groups = None

    @abstractmethod
    def batches(self, seed: int) -> Iterator[Batch]:
        """The batches of training in the order of a seed, epoch after epoch."""

    def replicate(self, seed: int, number: int) -> Iterator[Batch]:
        """The batches of a replicate of a fork with this seed."""
        return self.batches(zlib.crc32(f"{seed}/data/{number}".encode()))

    def see_own(self, until: int) -> int:
        """Begin each order with the batches that training itself has there, up to this update; 0 if
        they are not known.

        Args:
            until: Index of the first update whose batch is a new one.
        """
        return 0

    def examples_of(self, update: int) -> tuple[int, Int[Tensor, " examples"] | None]:
        """The number of examples that an update of training took, and their positions in the data
        set, if they are known. Asked for after `see_own` has named the update."""
        raise BadArgument("`batches` does not hold the batches that training took.")

    def some(self, count: int, seed: int, *, whole: bool = False) -> list[Batch]:
        """Some training examples, `count` of them if there are as many, in one batch if they can be
        joined; in batches as they are trained on, if these are to be left whole."""
        if self.groups is not None or whole:
            # Cut or joined, rows would be beside others than those that they are trained with.
            needed = -(-min(count, self.epoch or count) // first_size(self, seed))
            return list(itertools.islice(self.batches(seed), needed))
        chosen, total = list[Batch](), 0
        for batch in self.batches(seed):
            size = min(batch_size(batch), count - total)
            chosen.append(span(batch, 0, size))
            total += size
            if total >= min(count, self.epoch or count):
                break
        try:
            return [join_batches(chosen)]
        except BadArgument:  # sequences of unequal length
            return chosen


class Ordered(Data):
    """Examples that are drawn by their index: a new permutation in every epoch, as a shuffling
    DataLoader does.

    Args:
        examples: The examples.
        size: Number of examples in a batch.
        draw: REPLACEMENT for independent draws, which have no epochs.
    """

    def __init__(self, examples: Examples, size: int, draw: Draw = Draw.RESHUFFLED) -> None:
        self.examples = examples
        self.size = size
        self._draw = draw
        self.epoch = len(examples) if draw is Draw.RESHUFFLED else None

    def batches(self, seed: int) -> Iterator[Batch]:
        """The batches in the order of a seed."""
        order = Order(self._draw, len(self.examples), self.size or 1, seed)
        batches = (self.examples.batch(order.batch(step)) for step in itertools.count())
        return batches if self.examples.in_memory else _apart(batches, seed)


class Loaded(Data):
    """A DataLoader's examples, in batches of its sampler. Its workers are not started.

    Args:
        loader: The loader. The batches of a DistributedSampler are drawn from all examples.

    Raises:
        BadArgument: The order of its sampler cannot be set by a seed.
    """

    def __init__(self, loader: "DataLoader[Any]") -> None:
        dataset = loader.dataset
        sampler: Any = loader.batch_sampler
        plain = loader.sampler if sampler is None else getattr(sampler, "sampler", sampler)
        if isinstance(dataset, IterableDataset):
            raise BadArgument(
                f"`batches` has an IterableDataset, which cannot be replayed: {INSTEAD}."
            )
        # Samplers of torch whose order depends on torch's random state only, once their own
        # generator is replaced.
        shuffled = RandomSampler, SubsetRandomSampler, WeightedRandomSampler, DistributedSampler
        is_plain = sampler is None or type(sampler) is BatchSampler
        if not (is_plain and isinstance(plain, shuffled)):
            kind = type(plain if is_plain else sampler).__name__
            raise BadArgument(
                f"`batches` has a {kind}, whose order does not depend on a seed, so that "
                f"replicates would be the same: give shuffle=True, or {INSTEAD}."
            )
        self._sampler = sampler
        self._plain = plain
        self._dataset = dataset
        self._collate = loader.collate_fn
        self._examples = (
            None if sampler is None else Examples(dataset, "batches", loader.collate_fn)
        )
        self.size = None if sampler is None else sampler.batch_size
        if isinstance(plain, DistributedSampler):
            self.shards, count = plain.num_replicas, len(plain.dataset)  # type: ignore[arg-type]
        else:
            count = len(plain)
        if sampler is not None:
            self.epoch = (
                count // sampler.batch_size * sampler.batch_size if sampler.drop_last else count
            )

    def batches(self, seed: int) -> Iterator[Batch]:
        """The batches in the order of a seed."""
        if self._examples is None:
            return _apart(
                (self._collate(self._dataset[place]) for place in self._order(seed)), seed
            )
        examples = self._examples
        batches = (examples.batch(torch.as_tensor(chosen)) for chosen in self._order(seed))
        return batches if examples.in_memory else _apart(batches, seed)

    def _order(self, seed: int) -> Iterator[Any]:
        """The positions in the data set, of one batch after another."""
        sampler = self._sampler
        again: Any = copy.copy(self._plain)
        if isinstance(again, DistributedSampler):
            again = RandomSampler(range(len(again.dataset)))  # type: ignore[arg-type]
        again.generator = torch.Generator().manual_seed(seed)
        if sampler is not None:
            again = BatchSampler(again, sampler.batch_size, sampler.drop_last)
        while True:
            yield from again


class Called(Data):
    """A function of the seed that returns the batches.

    Args:
        function: Called as `function(seed)`; returns an iterable of batches. The data end with it.
    """

    def __init__(self, function: Callable[[int], Iterable[Batch]]) -> None:
        self._function = function

    def batches(self, seed: int) -> Iterator[Batch]:
        """The batches in the order of a seed."""

        def made() -> Iterator[Batch]:
            with user_code("batches"):
                found: Any = self._function(seed)
            try:
                batches = iter(found)
            except TypeError as error:  # also of a tensor with a single number
                raise BadArgument(
                    f"`batches` returned a {type(found).__name__}: return an iterable of batches."
                ) from error
            yield from batches

        return _apart(made(), seed)


class Listed(Data):
    """A list of batches, in a new order in every epoch.

    Args:
        batches: The batches.
    """

    def __init__(self, batches: Sequence[Batch]) -> None:
        self._batches = list(batches)
        self.size = batch_size(self._batches[0])
        self.epoch = sum(map(batch_size, self._batches))

    def batches(self, seed: int) -> Iterator[Batch]:
        """The batches in the order of a seed."""
        generator = torch.Generator().manual_seed(seed)
        while True:
            for place in torch.randperm(len(self._batches), generator=generator).tolist():
                yield self._batches[place]


class Kept(Data):
    """The batches that a training took from one of its updates on, and then others.

    Args:
        kept: The batches of each update.
        start: The index of the first update.
        later: The data, in whose orders training goes on.
    """

    def __init__(self, kept: Sequence[Sequence[Batch]], start: int, later: Data) -> None:
        self._kept = kept
        self._start = start
        self._later = later
        self._own = 0
        self.size = later.size
        self.epoch = later.epoch
        self.shards = later.shards
        self.groups = later.groups

    def batches(self, seed: int) -> Iterator[Batch]:
        """The kept batches that `see_own` asked for, and then those in the order of a seed."""
        return itertools.chain(*self._kept[: self._own], self._later.batches(seed))

    def see_own(self, until: int) -> int:
        """Begin with the kept batches, up to this update."""
        self._own = min(max(until - self._start, 0), len(self._kept))
        return self._start + self._own

    def examples_of(self, update: int) -> tuple[int, Int[Tensor, " examples"] | None]:
        """The rows of a batch; an update of several batches, or of groups, is not taken apart."""
        batches = self._kept[update - self._start]
        if len(batches) > 1 or self.groups is not None:
            return 1, None
        return batch_size(batches[0]), None


def data_of(batches: Any, size: int | None, groups: Groups = None) -> Data:
    """The data from what a person gives as `batches`.

    Args:
        batches: A DataLoader that shuffles; examples (tensors, a data set) with a batch size; a
            list of batches; or a function of a seed.
        size: The batch size, for examples.
        groups: Rows of a batch that belong together: see `Loop`.

    Raises:
        BadArgument: They cannot be replayed.
    """
    if groups is not None:
        return with_groups(data_of(batches, size), groups)
    if isinstance(batches, Data):
        return batches
    if isinstance(batches, DataLoader):
        return Loaded(batches)
    if size is not None:
        check_whole("batch_size", size, 1)
        examples = batches if isinstance(batches, Examples) else Examples(batches, "batches")
        if not size <= len(examples):
            raise BadArgument(
                f"`batch_size` must be at most the {len(examples):,} examples, got {size:,}."
            )
        return Ordered(examples, size)
    if isinstance(batches, Iterator):
        raise BadArgument(
            f"`batches` is a {type(batches).__name__}, which cannot be replayed: {INSTEAD}."
        )
    if isinstance(batches, torch.Tensor | Dataset | Examples | tuple):
        raise BadArgument(
            "`batch_size` is missing: `batches` are examples, which have to be put into batches."
        )
    if isinstance(batches, list) and batches:
        return Listed(batches)
    if callable(batches):
        return Called(batches)
    raise BadArgument(
        f"`batches` is a {type(batches).__name__}, which cannot be replayed: {INSTEAD}."
    )


def with_groups(data: Data, groups: Groups) -> Data:
    """The same data, whose examples are groups of rows.

    Raises:
        BadArgument: The rows of an example do not come together.
    """
    if isinstance(data, Ordered):
        raise BadArgument(
            "`groups` needs batches that hold the rows of an example together, and `batches` are "
            "rows that are drawn one by one: give a DataLoader, a function of a seed, or "
            "groups=None."
        )
    if not callable(groups):
        check_whole("groups", groups, 2)
    data.groups = groups
    first = next(data.batches(0), None)
    if first is not None:
        size = Piece.of(first, groups).size
        if data.epoch is not None and data.size is not None:
            data.epoch = data.epoch * size // data.size
        data.size = size
    return data


def first_size(data: Data, seed: int) -> int:
    """The number of examples in a batch of training.

    Raises:
        BadArgument: There is no batch.
    """
    if data.size is not None:
        return data.size
    first = next(data.batches(seed), None)
    if first is None:
        raise BadArgument("`batches` returned no batch.")
    return batch_size(first, "batches")


def _apart(batches: Iterator[Batch], seed: int) -> Iterator[Batch]:
    """The same batches, drawn with random states of their own, so that the model's draws do not
    change the data."""
    own: GlobalStates | None = None
    while True:
        with GlobalStates(seed=seed):
            if own is not None:
                own.restore()
            batch = next(batches, None)
            own = GlobalStates()
        if batch is None:
            return
        yield batch


def updates_per_step(each: str, data: Data, size: int) -> int:
    """The number of updates between two steps of the scheduler."""
    if not (isinstance(each, str) and each in ("update", "epoch")):
        raise BadArgument(f"`scheduler_each` must be 'update' or 'epoch', got {each!r}.")
    if each == "update":
        return 1
    if data.epoch is None:
        raise BadArgument(
            "`scheduler_each` is 'epoch', and the size of an epoch is not known: give a DataLoader."
        )
    return -(-data.epoch // size)
