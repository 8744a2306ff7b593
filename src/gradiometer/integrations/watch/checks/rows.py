"""Checks of the rows of batches: copies of one example within a batch, and examples that come back
in later ones."""

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from gradiometer.integrations.watch.shield import Hook, Shield
from gradiometer.integrations.watch.subject import Subject
from gradiometer.measurement.batch import Batch, batch_size, tensors_of

# Number of measured batches that are searched for copies.
LOOKS = 4

# Labels repeat by chance with a probability below 2 to the power of minus this.
BITS = 30

# Number of rows that came back after which that is no coincidence.
BACK = 8

# Training sets above this size get no warning: ‖g‖² is within 5 % there if the noise scale is below
# 2,500.
SMALL = 50_000

# Largest number of rows that are remembered.
KEPT = 50_000

# Number of measured batches with the same rows after which they are taken for the whole training
# set.
SAME = 8


class Rows:
    """Looks at the batches of measured steps, and warns once of each thing that changes what the
    readings mean.

    Args:
        subject: The training.
        warn: Takes a warning, in one sentence.
        shield: Takes errors of hooks.
    """

    def __init__(self, subject: Subject, warn: Callable[..., None], shield: Shield) -> None:
        self._warn = warn
        self._batches = subject.batches
        self._has_looked_back = False
        self._time_first = TimeFirst(subject.objective.model, shield)
        self._looks = LOOKS if subject.batches.groups is None else 0
        # True if there is nothing more to look for.
        self.is_done = False
        self._seen: set[int] = set()
        self._drawn = self._back = self._same = 0

    def look(self, batch_of: Callable[[], Batch]) -> None:
        """Look at the batch that is returned, if there is something to look for."""
        sampled = self._batches.known
        if not (self._looks or self._time_first.has_looked) and (sampled or self._has_looked_back):
            self.is_done = not self._time_first.is_looking
            return
        batch = batch_of()
        text = self._time_first.sentence(batch)
        if text:
            self._warn(text, withholds="loss")
        if self._looks:
            self._looks -= 1
            text = copies_in(batch)
            if text:
                self._looks = 0
                self._warn(text)
        if not (sampled or self._has_looked_back):
            self._look_back(batch)

    def _look_back(self, batch: Batch) -> None:
        prints = fingerprints(batch)
        # so far: the whole training set, or several updates on the first batch
        if prints and prints == self._seen:
            self._same += 1
            if self._same + 1 == SAME:
                self._warn(
                    f"the first {SAME} measured batches have the same {batch_size(batch)} rows: if "
                    f"these are the whole training set, give examples={batch_size(batch)}, so that "
                    "the gradient has no noise",
                    repeats="batch",
                )
            return
        if self._same + 1 >= SAME:
            self._warn(
                "later batches have other rows than the first ones, so there are more examples",
                repeats="no",
            )
        self._same = 0
        self._back += len(self._seen & prints)
        self._seen |= prints
        self._drawn += len(prints)
        # Of n draws from N, about n²/2N pairs are equal.
        if self._back >= BACK and (about := self._drawn**2 / (2 * self._back)) <= SMALL:
            self._warn(
                f"{self._back} rows of measured batches came back later, so that the training set "
                f"has only about {float(f'{about:.1g}'):,.0f} examples, and `sampling` was not "
                "given: give sampling=loader; ‖g‖² is otherwise too small, by the relative amount "
                "noise scale / N"
            )
        self._has_looked_back = self._back >= BACK or len(self._seen) > KEPT


def fingerprints(batch: Batch) -> set[int]:
    """A number for every row of the first tensor of numbers with more than one column. Equal rows
    have equal ones.

    A batch that is one tensor of different whole numbers holds the places of its examples.
    """
    tensors = list(_tensors(batch))
    if (
        len(tensors) == 1
        and tensors[0].dim() == 1
        and not (tensors[0].is_floating_point() or tensors[0].is_complex())
    ):
        places: list[int] = tensors[0].tolist()
        return set(places) if len(set(places)) == len(places) else set()
    for tensor in tensors:
        rows = tensor.detach().reshape(len(tensor), -1)
        if rows.shape[1] > 1 and not rows.is_complex():
            weights = torch.linspace(
                1.0, 2.0, rows.shape[1], dtype=torch.float64, device=rows.device
            ).sin()
            return {
                hash(number)
                for number in (rows.double() @ weights).tolist()
                if math.isfinite(number)
            }
    return set()


def copies_in(batch: Batch) -> str:
    """A sentence if rows of the batch seem to be copies of fewer examples; empty otherwise.

    Found by labels that come in blocks, or that repeat with a period.
    """
    size = batch_size(batch)
    for labels in _tensors(batch):
        if labels.dim() != 1 or labels.is_floating_point() or labels.is_complex():
            continue
        distinct = len(labels.unique())
        for copies in (count for count in range(size // 2, 1, -1) if size % count == 0):
            if distinct < 2 or (size - size // copies) * math.log2(distinct) < BITS:
                continue
            blocks, periods = labels.view(-1, copies), labels.view(copies, -1)
            if (blocks == blocks[:, :1]).all():
                return _sentence(f"in blocks of {copies} equal ones", f"groups={copies}")
            if (periods == periods[:1]).all():
                rows = size // copies
                return _sentence(
                    f"{copies} times in the same order",
                    f"groups=lambda batch: torch.arange({size}) % {rows}",
                )
    return ""


def _sentence(how: str, remedy: str) -> str:
    return (
        f"the labels of a batch come {how}: if these rows are augmented copies of one example, the "
        f"noise is read much too small unless they stay together; then give {remedy}"
    )


def _tensors(batch: Batch) -> Iterator[Tensor]:
    return (tensor for tensor in tensors_of(batch) if tensor.dim())


class TimeFirst:
    """Looks, once, at the input of every recurrent or attention module that takes time along its
    first axis.

    Args:
        model: The model.
        shield: Takes errors.
    """

    def __init__(self, model: nn.Module, shield: Shield) -> None:
        self._shapes: list[tuple[str, tuple[int, ...]]] = []
        self._handles: dict[str, Any] = {}
        for name, module in model.named_modules():
            if getattr(module, "batch_first", None) is False:
                shown = f"{name or 'the model'} ({type(module).__name__})"
                hook = Hook(shield, partial(self._look, shown))
                self._handles[shown] = module.register_forward_pre_hook(hook)

    def _look(self, name: str, _: nn.Module, inputs: tuple[Any, ...]) -> None:
        if inputs and isinstance(inputs[0], Tensor):
            self._shapes.append((name, tuple(inputs[0].shape)))
        self._handles.pop(name).remove()

    @property
    def is_looking(self) -> bool:
        """True if a module has not run yet."""
        return bool(self._handles)

    @property
    def has_looked(self) -> bool:
        """True if there are inputs to judge."""
        return bool(self._shapes)

    def sentence(self, batch: Batch) -> str:
        """A sentence if the first axis of the batch is that of time; empty otherwise."""
        size = batch_size(batch)
        shapes = self._shapes
        self._shapes = []
        for name, shape in shapes:
            if len(shape) == 3 and shape[0] == size != shape[1]:
                return (
                    f"`batch` has time along its first axis: {name} runs over {shape[0]} times of "
                    f"{shape[1]} examples, and the {shape[0]} count as examples; give batch_axis=1"
                )
        return ""
