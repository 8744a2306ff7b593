"""The readouts of a model at the end of a branch: losses on fixed examples, accuracy, and the
user's own metrics."""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

from gradiometer.errors import BadArgument, UserCodeFailed
from gradiometer.loop.readout import Readout, lower_is_better
from gradiometer.loop.stream import LABELS, Groups, Piece
from gradiometer.measurement.batch import Batch, batch_size, join_batches, mapped
from gradiometer.measurement.objective import Loss, checked_loss
from gradiometer.measurement.untouched import Surroundings, in_eval_mode
from gradiometer.problems.evaluation import AT_ONCE
from gradiometer.problems.examples import Examples
from gradiometer.problems.user_code import user_code

# What a reader of a fork should know of such a loss.
COUPLED = (
    "The loss of a batch is not the mean of those of its examples, as in contrastive training: all "
    "branches are read out on batches of the size that training has now."
)


def losses_on(
    batches: Iterator[Batch], loss: Loss, model: nn.Module, name: str, groups: Groups = None
) -> dict[str, Readout]:
    """The loss on these batches, and the accuracy if the model's output and the labels are those of
    classes.

    Args:
        batches: The examples.
        loss: The loss of training.
        model: The model, in eval mode.
        name: "train" or "test".
        groups: Rows that belong together: the value of an example is the mean over its rows.
    """
    losses: list[Tensor] = []
    sizes: list[int] = []
    right: list[Tensor | None] = []
    device = next(model.parameters()).device
    for given in batches:
        batch = mapped(given, lambda tensor: tensor.to(device))
        outputs: list[Any] = []
        handle = model.register_forward_hook(
            lambda _, __, output, into=outputs: into.append(output)
        )
        try:
            with user_code("loss", f"on {name} examples"):
                value = checked_loss(loss(model, batch), batch)
        finally:
            handle.remove()
        piece = Piece.of(batch, groups)
        values = value.detach().double()
        if piece.example is not None and values.dim():
            # the mean of each example over its rows; a mean over all rows stays one number
            example = piece.example.to(device)
            sums = values.new_zeros(piece.size).index_add(0, example, values)
            values = sums / example.bincount()
        losses.append(values)
        sizes.append(piece.size)
        right.append(_right(outputs, batch))
    if all(loss.dim() for loss in losses):
        mean = Readout.of(torch.cat(losses).cpu().numpy())
    else:
        means = torch.stack([loss.mean() for loss in losses]).cpu().numpy()
        mean = Readout(float(np.average(means, weights=sizes)))
    found = {f"{name}_loss": mean}
    if name == "test" and all(each is not None for each in right):
        correct = (
            torch.cat([each for each in right if each is not None]).cpu().numpy().astype(np.float64)
        )
        found["test_accuracy"] = Readout.of(correct, lower_is_better=False)
    return found


def _right(outputs: Sequence[Any], batch: Batch) -> Tensor | None:
    """True for every example whose label has the largest output; None if this is no
    classification."""
    if isinstance(batch, Mapping):
        labels = next((batch[key] for key in LABELS if key in batch), None)
    else:
        labels = batch[1] if isinstance(batch, tuple | list) and len(batch) == 2 else None
    if (
        len(outputs) != 1
        or not isinstance(labels, Tensor)
        or labels.dim() != 1
        or labels.dtype is not torch.int64
    ):
        return None
    scores = getattr(outputs[0], "logits", outputs[0])
    if (
        not isinstance(scores, Tensor)
        or scores.dim() != 2
        or scores.shape[0] != len(labels)
        or scores.shape[1] < 2
    ):
        return None
    return scores.argmax(dim=1) == labels


def couples_examples(model: nn.Module, loss: Loss, batches: Iterator[Batch]) -> bool:
    """True if the loss of two batches together is not the mean of theirs, as that of contrastive
    training.

    Args:
        model: The model.
        loss: Its loss.
        batches: Batches as they are trained on.
    """
    pair = list(itertools.islice(batches, 2))
    try:
        joined = join_batches(pair)
    except BadArgument:  # sequences of unequal length
        return False
    used = Surroundings((loss,), model)
    means = []
    with used.untouched(0), in_eval_mode(model):
        for batch in (joined, *pair, pair[0]):
            means.append(losses_on(iter([batch]), loss, model, "train")["train_loss"].mean)
    together, first, second, again = means
    mean = float(np.average([first, second], weights=list(map(batch_size, pair))))
    # rounding is far below, and what couples examples far above; random numbers would hide it
    return first == again and not math.isclose(together, mean, rel_tol=1e-3)


def held_out(evaluate: Any, at_once: int = AT_ONCE) -> Iterator[Batch]:
    """The examples of a test set, once, in order."""
    size = evaluate.batch_size if isinstance(evaluate, DataLoader) else None
    return examples_of(evaluate).batches(size or at_once)


def examples_of(evaluate: Any) -> Examples:
    """The test set that a person gives as `evaluate`.

    Raises:
        BadArgument: It is none.
    """
    if isinstance(evaluate, DataLoader):
        if isinstance(evaluate.dataset, IterableDataset):
            raise BadArgument(
                "`evaluate` has an IterableDataset: give a function of the model that returns "
                "metrics."
            )
        return Examples(evaluate.dataset, "evaluate", evaluate.collate_fn)
    return evaluate if isinstance(evaluate, Examples) else Examples(evaluate, "evaluate")


def metrics(evaluate: Callable[[nn.Module], Any], model: nn.Module) -> dict[str, Readout]:
    """The metrics that a user's function returns.

    Args:
        evaluate: Returns a number, or a mapping from names to numbers, to one value per example, or
            to `Readout`s.
        model: The model, in eval mode.
    """
    with user_code("evaluate"):
        found = evaluate(model)
    if not isinstance(found, Mapping):
        name = getattr(evaluate, "__name__", "metric")
        found = {"metric" if name == "<lambda>" else name: found}
    return {str(name): _readout(str(name), value) for name, value in found.items()}


def _readout(name: str, value: Any) -> Readout:
    if isinstance(value, Readout):
        return value
    numbers: Float[np.ndarray, "..."] = np.empty((0, 0))
    # a tensor on the meta device raises a RuntimeError, and a whole number may be too large
    with suppress(TypeError, ValueError, RuntimeError, OverflowError):
        if not isinstance(value, Tensor):
            numbers = np.asarray(value, dtype=np.float64)
        elif not value.is_complex():
            numbers = value.detach().cpu().double().numpy()
    if numbers.ndim == 0:
        return Readout(float(numbers), lower_is_better=lower_is_better(name))
    if numbers.ndim == 1 and len(numbers):
        return Readout.of(numbers, lower_is_better=lower_is_better(name))
    raise UserCodeFailed(
        f"`evaluate` returned for {name!r} a {type(value).__name__}: return a number, or one value "
        "per example."
    )


def is_test_set(evaluate: Any) -> bool:
    """True for examples, False for a function of the model and for None."""
    return evaluate is not None and (
        not callable(evaluate) or isinstance(evaluate, Dataset | DataLoader)
    )


def readouts_of(
    model: nn.Module,
    loss: Loss | None,
    some: Sequence[Batch],
    evaluate: Any,
    seed: int,
    groups: Groups = None,
    at_once: int = AT_ONCE,
) -> dict[str, Readout]:
    """The numbers that a model is judged by, in eval mode and with random numbers of their own.

    Args:
        model: The model.
        loss: Its loss; None if the loop makes whole updates itself.
        some: A few training examples.
        evaluate: A test set, a function of the model that returns metrics, or None.
        seed: Seed of the random numbers that loss and metrics draw.
        groups: Rows of the training examples that belong together.
        at_once: Examples of the test set in a batch.
    """
    found: dict[str, Readout] = {}
    used = Surroundings((loss, evaluate), model)
    with used.untouched(seed), in_eval_mode(model):
        if loss is not None:
            found |= losses_on(iter(some), loss, model, "train", groups)
        if is_test_set(evaluate):
            assert loss is not None
            found |= losses_on(held_out(evaluate, at_once), loss, model, "test")
        elif evaluate is not None:
            # what a person names comes before the training loss, as the readout that is compared
            found = metrics(evaluate, model) | found
    return found
