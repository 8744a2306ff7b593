"""Moments of the inputs, outputs and labels of a batch, and which known loss the loop trains."""

from collections import deque
from collections.abc import Container, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import CrossEntropyLoss, functional

from gradiometer.loop.stream import LABELS
from gradiometer.measurement.batch import Batch, tensors_of

# How the nodes of torch's losses begin their names. Each keeps the two tensors that it compares
# until `backward` has passed.
LOSSES = ("NllLoss", "MseLoss", "BinaryCrossEntropy", "SmoothL1Loss", "HuberLoss")


# The label that torch leaves out by default.
IGNORED = CrossEntropyLoss().ignore_index


def compared_by(loss: Tensor) -> tuple[Tensor, Tensor] | None:
    """The outputs and the labels that a loss compares, before `backward` is called on it.

    Args:
        loss: The tensor that `backward` is about to be called on.

    Returns:
        Outputs and labels: logarithms of probabilities, shape [rows, classes], and class numbers,
        shape [rows], for a cross-entropy; predictions and targets of equal shape for other losses.
        None if torch's own losses are not in the graph, or more than one of them, or if the tensors
        would have to be computed again, as under checkpointing.
    """
    found = _losses_in(loss)
    return _saved_by(found[0]) if len(found) == 1 else None


def ranges_of_targets(loss: Tensor) -> list[Tensor]:
    """The least and the largest target of each loss of torch in this one whose targets are numbers,
    shape [2]: 0 and 0, or 1 and 1, for what a discriminator is to say of all examples.

    Args:
        loss: The tensor that `backward` is about to be called on.
    """
    saved = [_saved_by(node) for node in _losses_in(loss)]
    targets = [one[1] for one in saved if one is not None]
    return [
        torch.stack(torch.aminmax(one))
        for one in targets
        if one.is_floating_point() and one.numel()
    ]


def goes_through_others(loss: Tensor, own: Container[int]) -> bool:
    """True if the parameter that is nearest to a loss in its graph is of another network, as that of
    a discriminator is to the loss of a generator.

    Args:
        loss: The tensor that `backward` is about to be called on.
        own: `id` of every parameter of the model and of its optimizers.
    """
    found = {loss.grad_fn}
    waiting = deque(found)
    # a layer has a few nodes, and the parameters of the last one are among the nearest
    while waiting and len(found) <= 300:
        node = waiting.popleft()
        leaf = getattr(node, "variable", None)
        if isinstance(leaf, nn.Parameter):
            return id(leaf) not in own
        children = [] if node is None else [child for child, _ in node.next_functions]
        new = [child for child in dict.fromkeys(children) if child not in found]
        found.update(new)
        waiting += new
    return False


def _losses_in(loss: Tensor) -> list[Any]:
    """The nodes of torch's losses in a graph."""
    return [node for node in _nearest_nodes(loss) if node.name().startswith(LOSSES)]


def _saved_by(node: Any) -> tuple[Tensor, Tensor] | None:
    """The outputs and the labels that a loss compares; None if they would have to be computed
    again, as under checkpointing, or are gone."""
    try:
        # A hook would run part of the forward pass again, which counts in the statistics of
        # BatchNorm. Versions of torch that do not show it are taken as having one.
        saved = node._raw_saved_self, node._raw_saved_target
        if any(getattr(one, "unpack_hook", True) is not None for one in saved):
            return None
        outputs, labels = node._saved_self.detach(), node._saved_target.detach()
    except RuntimeError:  # freed by an earlier `backward`, or changed since
        return None
    if not labels.is_floating_point():
        # torch returns the number without its sign
        ignored = node._saved_ignore_index
        labels = labels.masked_fill(labels == ignored - 2**64 * (ignored >= 2**63), IGNORED)
    return outputs, labels


def _nearest_nodes(loss: Tensor) -> list[Any]:
    """The nodes of the graph below a loss, the nearest first."""
    nodes: dict[Any, None] = {} if loss.grad_fn is None else {loss.grad_fn: None}
    waiting = deque(nodes)
    # Most nodes that are looked at. The loss lies near the root of the graph, below a division, a
    # scale, or the sum with a penalty.
    while waiting and len(nodes) <= 40:
        children = [child for child, _ in waiting.popleft().next_functions if child is not None]
        new = [child for child in dict.fromkeys(children) if child not in nodes]
        nodes |= dict.fromkeys(new)
        waiting += new
    return list(nodes)


# Number of batches at which the loss is compared with the known ones.
IDENTIFIED_AT = 3


class BatchSigns:
    """Takes moments of batches. All results stay on the device of the batch until they
    are fetched."""

    def __init__(self, model: nn.Module) -> None:
        self._counts: Tensor | None = None
        self._rows = 0
        self._sums: list[Tensor] = []
        self._looks = 0
        # columns of whole numbers are then categories
        self._has_embeddings = any(isinstance(part, nn.Embedding) for part in model.modules())

    @property
    def due(self) -> bool:
        """True if this look takes moments. Ask once a look."""
        self._looks += 1
        # After these, one look in so many takes moments: they cost a third of a look, and change
        # little along a training.
        return self._looks <= IDENTIFIED_AT or self._looks % 4 == 0

    def of(
        self, inputs: Tensor | None, labels: Tensor | None, out: Tensor | None
    ) -> dict[str, Tensor]:
        """The moments of one batch, by name.

        Args:
            inputs: The inputs of its examples.
            labels: Their labels.
            out: What the model returned for them. Each is None if it was not seen.
        """
        found: dict[str, Tensor] = {}
        if inputs is not None:
            found |= input_moments(inputs, self._has_embeddings)
        if out is not None and out.numel():
            found["output_std"], found["output_mean"] = spread_and_mean(out.detach().float())
        if labels is not None:
            found |= self._of_labels(labels, out)
        if out is not None and labels is not None and self._looks <= IDENTIFIED_AT:
            found |= known_losses(out.detach().float(), labels)
        return found

    def _of_labels(self, labels: Tensor, out: Tensor | None) -> dict[str, Tensor]:
        if labels.is_floating_point():
            return self._of_targets(labels.detach().float())
        classes = class_axis(out, labels)
        if classes is None and not labels.is_cpu:
            return {}  # the number of classes would have to be fetched
        known = labels.detach().reshape(-1).long()
        known = known[known >= 0] if known.is_cpu else known.clamp_min(0)
        if not known.numel():
            return {}
        size = 0 if out is None or classes is None else out.shape[classes]
        if known.is_cpu:
            counts = torch.bincount(known, minlength=size).float()
        else:  # without waiting for it
            counts = torch.zeros(size, device=known.device).scatter_add_(
                0, known.clamp_max(size - 1), torch.ones_like(known, dtype=torch.float32)
            )
        before = counts.new_zeros(0) if self._counts is None else self._counts
        size = max(len(before), len(counts))
        counts = functional.pad(counts, (0, size - len(counts)))
        self._counts = functional.pad(before, (0, size - len(before))) + counts
        share = self._counts / self._counts.sum()
        expected = (1 - (1 - share) ** counts.sum()).sum()
        return {
            "labels": counts.sum(),
            "classes": (counts > 0).sum(),
            "classes_expected": expected,
            "classes_seen": (self._counts > 0).sum(),
            "label_entropy": -(share * share.clamp_min(1e-30).log()).sum(),
        }

    def _of_targets(self, targets: Tensor) -> dict[str, Tensor]:
        columns = targets.reshape(len(targets), -1)
        sums = [columns.sum(0), (columns**2).sum(0)]
        if self._sums and self._sums[0].shape == sums[0].shape:
            self._sums = [old + new for old, new in zip(self._sums, sums, strict=True)]
            self._rows += len(columns)
        else:
            self._sums = sums
            self._rows = len(columns)
        mean = self._sums[0] / self._rows
        shifted = columns - columns[0]  # exact for targets that do not vary
        return {
            "target_variance": (self._sums[1] / self._rows - mean**2).clamp_min(0).mean(),
            "batch_variance": (shifted - shifted.mean(dim=0)).square_().mean(),
            "target_share": mean.mean(),
        }


def parts_of(batch: Batch) -> tuple[Tensor | None, Tensor | None]:
    """The inputs and the labels of a batch, however it is nested; None for what it does not have.

    Labels have their name in a mapping. Elsewhere they are the last tensor with as many rows as the
    first one has, so that the state of a recurrent network, shape [1, B, H], is not taken for them.
    """
    tensors = [one for one in tensors_of(batch) if one.dim()]
    if not tensors or isinstance(batch, Tensor):
        return next(iter(tensors), None), None
    labels = _named_labels(batch)
    if labels is None and not isinstance(batch, Mapping) and len(tensors) > 1:
        beside = [one for one in tensors[1:] if len(one) == len(tensors[0])]
        labels = (beside or tensors)[-1]
    others = [one for one in tensors if one is not labels]
    floating = [one for one in others if one.is_floating_point()]
    return next(iter(floating or others), None), labels


def _named_labels(batch: Batch) -> Tensor | None:
    """The labels by their name in a mapping, at any depth; None without one."""
    if isinstance(batch, Mapping):
        values = (batch.get(name) for name in LABELS)
        named = next((one for one in values if isinstance(one, Tensor)), None)
        if named is not None:
            return named
    elif not isinstance(batch, tuple | list):
        return None
    inside = batch.values() if isinstance(batch, Mapping) else batch
    found = (_named_labels(one) for one in inside if not isinstance(one, Tensor))
    return next((one for one in found if one is not None), None)


def logits_of(output: Any) -> Tensor | None:
    """The tensor of outputs in what a model returned: itself, `logits`, or the first one with an
    axis of classes."""
    if isinstance(output, Tensor):
        # rows of unequal length are no table of logits
        is_table = output.dim() and output.is_floating_point() and not output.is_nested
        return output if is_table else None
    logits = (
        output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    )
    if isinstance(logits, Tensor):
        return logits
    values = output if isinstance(output, tuple | list) else ()
    return next((one for one in values if isinstance(one, Tensor) and one.dim() > 1), None)


def input_moments(inputs: Tensor, has_embeddings: bool = False) -> dict[str, Tensor]:
    """Mean and spread of all entries, and the number of examples that are not finite.

    Args:
        inputs: Their first axis counts examples.
        has_embeddings: True if the model looks categories up, which are then no numbers to scale:
            columns of whole numbers are left out.
    """
    if not inputs.is_floating_point() or not inputs.numel():
        return {}
    rows = inputs.detach().reshape(len(inputs), -1)
    # 2**18 numbers take 0.2 ms on one processor core. Of more, the first examples count.
    rows = rows[: max(2, 2**18 // rows.shape[1])].float()
    not_finite = {"inputs_not_finite": (~rows.sum(dim=1).isfinite()).sum()}
    numbers = rows[:, (rows != rows.round()).any(dim=0)] if has_embeddings else rows
    if not numbers.numel():
        return not_finite
    spread, mean = spread_and_mean(numbers)
    return {"input_std": spread, "input_mean": mean, **not_finite}


def spread_and_mean(numbers: Tensor) -> tuple[Tensor, Tensor]:
    """The standard deviation and the mean of all numbers, six times as fast as `torch.std_mean`.

    Less the first of them, so that numbers that do not vary have exactly no spread.
    """
    first = numbers.reshape(-1)[0]
    shifted = numbers - first
    shift = shifted.mean()
    return (shifted - shift).square_().mean().sqrt(), first + shift


def class_axis(out: Tensor | None, labels: Tensor) -> int | None:
    """The axis of the classes in the outputs, for labels that are class numbers; None if there is
    none."""
    if out is None:
        return None
    if out.shape[:-1] == labels.shape:
        return out.dim() - 1
    if out.dim() > 1 and (out.shape[0], *out.shape[2:]) == tuple(labels.shape):
        return 1
    return None


def known_losses(out: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Values of the usual losses on these outputs, to see which of them is trained, and sums of the
    outputs."""
    if labels.is_floating_point():
        targets = labels.float()
        if out.numel() != targets.numel():
            return {}
        flat, wanted = out.reshape(-1), targets.reshape(-1)
        return {
            "as_squared": functional.mse_loss(flat, wanted),
            "as_binary": functional.binary_cross_entropy_with_logits(flat, wanted),
        }
    axis = class_axis(out, labels)
    if axis is None or out.shape[axis] < 2:
        return {}
    logits = out.movedim(axis, -1).reshape(-1, out.shape[axis])
    wanted = labels.reshape(-1).long()
    # labels of something else than these outputs may be no class of them: an error, on an
    # accelerator one that ends the process
    wanted = wanted.masked_fill((wanted < 0) | (wanted >= logits.shape[1]), IGNORED)
    sums = logits.sum(dim=1)
    return {
        "as_cross_entropy": functional.cross_entropy(logits, wanted),
        "as_twice": functional.cross_entropy(logits.softmax(dim=1), wanted),
        "as_log_of_outputs": functional.nll_loss(logits.clamp_min(1e-30).log(), wanted),
        "row_sum_off": (sums - 1).abs().max(),
        "output_min": logits.min(),
    }
