"""Checks of what a loop gives: its losses, against what `backward` was called on and against the
loss given to `watch`; and the rows of its batches."""

import math
import random
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from gradiometer.errors import BadArgument
from gradiometer.integrations.gradients import OFF, Listener
from gradiometer.integrations.watch.hook import Hook
from gradiometer.integrations.watch.shield import Shield
from gradiometer.integrations.watch.subject import Subject
from gradiometer.measurement.batch import Batch, batch_size, tensors_of
from gradiometer.measurement.objective import Gradients
from gradiometer.measurement.parts import inner_products, squared_distance, squared_norms


class Shares:
    """Compares the numbers that `backward` was called on with the losses given to `step`, at the
    first measured step.

    With `accumulation` backwards per update, each mean loss should be divided by that number.

    Args:
        accumulation: Number of backwards per update on this process.
        warn: Takes a warning, in one sentence.
        is_checked: True if the losses given to `step` are compared with the loss given to `watch`.
    """

    def __init__(self, accumulation: int, warn: Callable[..., None], *, is_checked: bool) -> None:
        self._accumulation = accumulation
        self._warn = warn
        self._is_checked = is_checked
        # Number of measured steps at which the factor is still looked for.
        self.left = 4 if accumulation > 1 else 0
        self._heard: list[Tensor | None] = []
        self._roots: list[Tensor | None] = []
        self._plain = True
        self._listener = Listener(before=lambda _: None, after=self._heard.append)
        # True from `start` to `stop`.
        self.listens = False
        # `.grad` of an update divided by the mean of the gradients of its backwards; None if it is
        # not a multiple.
        self.multiple: float | None = 1.0

    def start(self) -> None:
        """Listen to the backwards of the next step: the factor is not known yet."""
        self.stop()
        self._listener.start()
        self.listens = True

    def stop(self) -> None:
        """Do not listen."""
        if self.listens:
            self._listener.remove()
            self.listens = False
        self._heard.clear()
        self._roots.clear()
        self._plain = True

    def given(self, loss: Any) -> None:
        """Take in the loss given to `step`, as it was given."""
        node = type(getattr(loss, "grad_fn", None)).__name__
        self._plain &= not node.startswith(("Div", "Mul", "NoneType"))
        self._roots += self._heard[-1:]
        self._heard.clear()

    def decide(self, losses: Sequence[Tensor | float], scale: Callable[[], float]) -> None:
        """Decide from all backwards of an update.

        Args:
            losses: The losses given to `step`.
            scale: A function that returns the factor of the GradScaler.

        Raises:
            BadArgument: The losses given to `step` were divided for accumulation.
        """
        self.left -= 1
        roots, given = (
            [root for root in self._roots if root is not None],
            [float(loss) for loss in losses],
        )
        if len(roots) != len(given) or not all(math.isfinite(one) and one != 0 for one in given):
            return
        factor = scale()
        factors = [float(root) / one / factor for root, one in zip(roots, given, strict=True)]
        if not all(map(math.isfinite, factors)):
            return
        self.left = 0
        mean = sum(factors) / len(factors)
        # Relative difference of the factors of two micro-batches that may be rounding of a loss in
        # half precision.
        if any(abs(factor - mean) > 4e-3 * abs(mean) for factor in factors):
            return  # another term was added to the loss, or the micro-batches have weights
        if not abs(mean / self._accumulation - 1) >= OFF:
            raise BadArgument(
                f"`loss` of the step was divided by {self._accumulation}, and what `backward` was "
                "called on was not: give `step` the mean loss of the micro-batch, before it is "
                "divided for accumulation."
            )
        if abs(mean - 1) < OFF and not (self._plain or self._is_checked):
            self.multiple = None
            self._warn(
                "`backward` was called on the losses given to `step` as they are, so that they "
                f"were either divided by {self._accumulation} before, or never: nothing is "
                "measured; give `step` the mean loss of the micro-batch, and call `backward` on a "
                f"{self._accumulation}th of it"
            )
        elif abs(mean * self._accumulation - 1) > OFF:
            self.multiple = mean * self._accumulation
            self._warn(
                f"gradients are accumulated as {self.multiple:.3g} times their mean, since "
                f"`backward` was called on {mean:.3g} times the losses given to `step`: the "
                "readings are divided by that, and under SGD the learning rate counts "
                f"{self.multiple:.3g} times; to train on the mean, divide each loss by "
                f"{self._accumulation}"
            )


# Two values of a loss with a smaller relative difference are equal up to rounding (TF32 included).
SAME = 1e-3

# With a smaller relative difference they may differ in precision (bfloat16); with a larger one they
# are two losses.
ALIKE = 0.05


class LossCheck:
    """Compares training's loss with the given loss on the same batch: at the first measured step,
    and at random later.

    Args:
        subject: The training and the given loss.
        warn: Takes a warning, in one sentence, and what it withholds.
    """

    def __init__(self, subject: Subject, warn: Callable[..., None]) -> None:
        self._subject = subject
        self._warn = warn
        self._done = False
        self._chance = random.Random(subject.seed)
        self._tolerance = ALIKE
        # False if training's gradient is not the gradient of the given loss: it is not called
        # again.
        self.same_loss = True
        # Number of measured steps until the next comparison.
        self.left = 0

    def __call__(
        self,
        batch: Batch,
        loss: Tensor | float,
        made: Gradients | Callable[[], Gradients | None] | None,
    ) -> None:
        """Compare, and choose the next time.

        Args:
            batch: The examples of the first backward.
            loss: Training's loss on them.
            made: Training's gradient, or a function that returns it, if there was one backward on
                one process.

        Raises:
            BadArgument: The loss given to `step` was divided for accumulation.
        """
        first, self._done = not self._done, True
        self.left = 0
        # After the first measured step, one in so many is checked again.
        while self._chance.random() >= 1 / 16:
            self.left += 1
        trained = float(loss)
        if not math.isfinite(trained):
            return
        if self._subject.objective.traits(batch, seed=self._subject.seed).random:
            # Number of times that a loss with random numbers is run to see how much it varies.
            values = torch.tensor(
                [self._value(batch, self._subject.seed + draw) for draw in range(4)],
                dtype=torch.float64,
            )
            value, spread = float(values.mean()), float(values.std())
            # Another loss differs by a quarter and 6 standard deviations.
            if abs(trained - value) > max(abs(trained), abs(value)) / 4 + 6.0 * spread:
                self.same_loss = False
                self._tell(trained, value, batch, first=first)
        elif first and (made := made() if callable(made) else made) is not None:
            value, own = self._subject.objective.loss_and_gradient(batch, seed=self._subject.seed)
            if self._is_same(trained, value, batch, first=first):
                self._compare_gradients(own, made, batch)
        else:
            self._is_same(trained, self._value(batch, self._subject.seed), batch, first=first)

    def _value(self, batch: Batch, seed: int) -> float:
        with torch.no_grad(), self._subject.objective.untouched_randomness(seed):
            return self._subject.objective.mean_loss(
                self._subject.objective.parameters, batch
            ).item()

    def _is_same(self, trained: float, value: float, batch: Batch, *, first: bool) -> bool:
        """True if the two values are of one loss, up to precision."""
        self.same_loss = _near(trained, value, SAME)
        if (
            self._subject.source.backwards > 1
            and not self.same_loss
            and _near(trained * self._subject.source.backwards, value, SAME)
        ):
            raise BadArgument(
                f"`loss` of the step is {trained:.4g}, {self._subject.source.backwards} times less "
                f"than the loss given to `watch` ({value:.4g}): give the mean loss of the "
                "micro-batch, before it is divided for accumulation."
            )
        if _near(trained, value, self._tolerance):
            self._tolerance = 10 * SAME if self.same_loss else ALIKE
            return True
        self.same_loss = False
        self._tell(trained, value, batch, first=first)
        return False

    def _tell(self, trained: float, value: float, batch: Batch, *, first: bool) -> None:
        size = batch_size(batch)
        if first and size > 1 and _near(trained, size * value, ALIKE):
            self._warn(
                f"the loss in training, {trained:.4g}, is the sum over the {size} examples of a "
                f"batch, and the loss given to `watch` is the mean, {value:.4g}: give `step` the "
                f"mean, which is the sum divided by {size}",
                withholds="loss",
            )
            return
        remedy = (
            "the measurements describe the former; give `watch` the loss that is trained"
            if first
            else "they were equal at the first measured step; give `step` the batch of its loss, at every step"
        )
        self._warn(
            f"the loss given to `watch` is {value:.4g} on a batch where the loss in training is "
            f"{trained:.4g}: {remedy}",
            withholds="loss",
        )

    def _compare_gradients(self, own: Gradients, made: Gradients, batch: Batch) -> None:
        length = float(squared_norms(own).sum().sqrt())
        off = math.sqrt(squared_distance(made, own))
        self.same_loss &= not off > OFF * length
        # Two gradients differ by more than precision if their difference is longer than this share
        # of one of them.
        if off > 0.5 * length > 0:
            along = float(inner_products(made, own).sum()) / length
            # Two gradients with a larger cosine differ by a factor, which does not change the noise
            # scale.
            parallel = along > 0.9 * float(squared_norms(made).sum().sqrt())
            if parallel and _near(along / length, float(size := batch_size(batch)), ALIKE):
                self._warn(
                    f"`backward` was called on the sum over the {size} examples of a batch, and "
                    "`loss` is their mean: a sum grows with the batch, so under SGD divide the "
                    "learning rate that is advised for another batch by the factor of the batch"
                )
                return
            self._warn(
                f"`backward` made another gradient than `loss` has, {along / length:.4g} times as "
                "long along it: the measurements describe `loss`; give the scaler as `scaler`, "
                "call `backward` on the loss without a factor, and give `step` the batch of that "
                "loss",
                **({} if parallel else {"withholds": "loss"}),
            )


def _near(one: float, other: float, tolerance: float) -> bool:
    return abs(one - other) <= tolerance * max(abs(one), abs(other))


# Number of measured batches that are searched for copies.
LOOKS = 4


# Rows that came back, or measured batches with the same rows, after which that is no coincidence.
REPEATED = 8


# Larger training sets get no warning: ‖g‖² is then within 5 % for a noise scale of 100.
HARMLESS_SIZE = 2_000


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
        self._same = 0
        self._set = SizeOfSet()

    def look(self, batch_of: Callable[[], Batch]) -> None:
        """Look at the batch that is returned, if there is something to look for."""
        sampled = self._batches.known
        if not (self._looks or self._time_first.shapes) and (sampled or self._has_looked_back):
            self.is_done = not self._time_first.handles
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
        if prints and prints == self._set.first.keys():
            self._same += 1
            if self._same + 1 == REPEATED:
                self._warn(
                    f"the first {REPEATED} measured batches have the same {batch_size(batch)} "
                    f"rows: if these are the whole training set, give "
                    f"examples={batch_size(batch)}, so that "
                    "the gradient has no noise",
                    repeats="batch",
                )
            return
        if self._same + 1 >= REPEATED:
            self._warn(
                "later batches have other rows than the first ones, so there are more examples",
                repeats="no",
            )
        self._same = 0
        self._set.add(prints)
        if are_short_words(batch):
            self._has_looked_back = True
            return
        sizes = self._set.interval()
        if sizes is not None and sizes[1] <= HARMLESS_SIZE:
            self._has_looked_back = True
            self._warn(
                f"rows of measured batches came back, which shows a training set of "
                f"{_two_digits(sizes[0])} to {_two_digits(sizes[1])} examples, and `sampling` was "
                "not given: give sampling=loader; in shuffled epochs ‖g‖² is otherwise too small, "
                "by the relative amount noise scale / N"
            )
        self._has_looked_back |= len(self._set.first) > 10 * HARMLESS_SIZE


class SizeOfSet:
    """Estimates how many examples there are, from rows that come back in later batches.

    A row counts as one that came back if it was first seen in the older half of the batches so far.
    Those that came back from the newer half do not: a batch may be trained on several times, and a
    game is played and learnt from for a while, both with any number of examples. Neither does a
    batch that comes back as a whole: in a fixed order, measured steps may meet the same few batches
    in every epoch.
    """

    def __init__(self) -> None:
        # The batch in which each row was first seen.
        self.first: dict[int, int] = {}
        # Different rows that were seen up to each batch.
        self._seen = [0]
        # Of each batch: how many rows are expected to come back, times N, and how many did.
        self._counts: list[tuple[int, int]] = []

    def add(self, rows: set[int]) -> None:
        """Take in the fingerprints of the rows of one more batch."""
        batch = len(self._counts)
        before = {self.first.get(row, batch) for row in rows}
        if batch in before or len(before) > 1:
            half = batch // 2
            back = sum(self.first.get(row, batch) < half for row in rows)
            self._counts.append((len(rows) * self._seen[half], back))
            for row in rows:
                self.first.setdefault(row, batch)
            self._seen.append(len(self.first))

    def interval(self) -> tuple[float, float] | None:
        """How many rows were seen, and the largest number N of examples, two standard errors above
        its estimate; None if fewer than 8 rows came back. Looked at with every eighth batch.

        Of a batch of b rows, b m / N are among m different ones that were seen before. In shuffled
        epochs fewer are, as long as the epoch lasts, so that N may be taken for more than it is. The
        error is that of counts, or what the batches differ by from this if that is more.

        >>> import torch
        >>> seen, chance = SizeOfSet(), torch.Generator().manual_seed(0)
        >>> for _ in range(40):
        ...     seen.add(set(torch.randint(300, (16,), generator=chance).tolist()))
        >>> [round(size) for size in seen.interval()]
        [264, 328]
        """
        back = sum(count for _, count in self._counts)
        if back < REPEATED or len(self._counts) % 8:
            return None
        expected = sum(share for share, _ in self._counts)
        size = expected / back
        off = sum((count - share / size) ** 2 for share, count in self._counts)
        margin = 2.0 * math.sqrt(max(back, off))
        seen = float(len(self.first))
        return seen, max(expected / (back - margin), seen) if back > margin else math.inf


def _two_digits(number: float) -> str:
    return f"{float(f'{number:.2g}'):,.0f}"


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


def are_short_words(batch: Batch) -> bool:
    """True if the rows are a few whole numbers each, such as the last three letters of a text: equal
    ones are often different examples."""
    rows = next((one for one in _tensors(batch) if one.dim() > 1 and one[:1].numel() > 1), None)
    return rows is not None and not rows.is_floating_point() and rows[:1].numel() < 16


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
            # Labels repeat by chance with a probability below 2 to the power of minus this.
            if distinct < 2 or (size - size // copies) * math.log2(distinct) < 30:
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
        # Inputs to judge, and the modules that have not run yet.
        self.shapes: list[tuple[str, tuple[int, ...]]] = []
        self.handles: dict[str, Any] = {}
        for name, module in model.named_modules():
            if getattr(module, "batch_first", None) is False:
                shown = f"{name or 'the model'} ({type(module).__name__})"
                hook = Hook(shield, partial(self._look, shown))
                self.handles[shown] = module.register_forward_pre_hook(hook)

    def _look(self, name: str, _: nn.Module, inputs: tuple[Any, ...]) -> None:
        if inputs and isinstance(inputs[0], Tensor):
            self.shapes.append((name, tuple(inputs[0].shape)))
        self.handles.pop(name).remove()

    def sentence(self, batch: Batch) -> str:
        """A sentence if the first axis of the batch is that of time; empty otherwise."""
        size = batch_size(batch)
        shapes = self.shapes
        self.shapes = []
        for name, shape in shapes:
            if len(shape) == 3 and shape[0] == size != shape[1]:
                return (
                    f"`batch` has time along its first axis: {name} runs over {shape[0]} times of "
                    f"{shape[1]} examples, and the {shape[0]} count as examples; give batch_axis=1"
                )
        return ""
