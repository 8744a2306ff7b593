"""What a loss has compared, read from its graph: the labels of a loop that does not give its
batches."""

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
        None if torch's own losses are not in the graph, or more than one of them.
    """
    nodes: dict[Any, None] = {loss.grad_fn: None}
    for node in (waiting := list(nodes)):
        if node is None or len(nodes) > MOST_NODES:
            continue
        for child, _ in node.next_functions:
            if child not in nodes:
                nodes[child] = None
                waiting.append(child)
    found = [node for node in nodes if node is not None and node.name().startswith(LOSSES)]
    if len(found) != 1:
        return None
    try:
        outputs, labels = found[0]._saved_self.detach(), found[0]._saved_target.detach()
    except RuntimeError:  # freed by an earlier `backward`, or changed since
        return None
    if not labels.is_floating_point():
        # torch returns the number without its sign
        ignored = found[0]._saved_ignore_index
        labels = labels.masked_fill(labels == ignored - 2**64 * (ignored >= 2**63), IGNORED)
    return outputs, labels
