"""What a loss has compared, read from its graph: the labels of a loop that does not give its
batches."""

from collections import deque
from typing import Any

from torch import Tensor

LOSSES = ("NllLoss", "MseLoss", "BinaryCrossEntropy", "SmoothL1Loss", "HuberLoss")
"""How the nodes of torch's losses begin their names. Each keeps the two tensors that it compares
until `backward` has passed."""

MOST_NODES = 40
"""Most nodes that are looked at. The loss lies near the root of the graph, below a division, a
scale, or the sum with a penalty."""

IGNORED = -100
"""The label that torch leaves out by default."""


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
    found = [node for node in _nearest_nodes(loss) if node.name().startswith(LOSSES)]
    if len(found) != 1:
        return None
    (node,) = found
    try:
        # A hook would run part of the forward pass again, which counts in the statistics of
        # BatchNorm. Versions of torch that do not show it are taken as having one.
        if not _lie_ready(node._raw_saved_self, node._raw_saved_target):
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
    while waiting and len(nodes) <= MOST_NODES:
        children = [child for child, _ in waiting.popleft().next_functions if child is not None]
        new = [child for child in dict.fromkeys(children) if child not in nodes]
        nodes |= dict.fromkeys(new)
        waiting += new
    return list(nodes)


def _lie_ready(*saved: Any) -> bool:
    """True if no hook makes these saved tensors when they are asked for."""
    return all(getattr(one, "unpack_hook", True) is None for one in saved)
