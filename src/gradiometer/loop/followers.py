"""Tensors outside of a model that follow its parameters, such as a moving average of the weights."""

import gc
from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor, nn

# Fewest changes in place of a tensor that follows: a snapshot is written once or a few times.
FEWEST = 8

# Largest distance from the parameters, as a share of their norm.
NEAR = 0.5

NOTE = (
    "Tensors outside of the model follow its parameters, such as a moving average of the weights or "
    "a target network. The branches do not move them, and compare the weights of the model itself."
)


@torch.no_grad()
def is_followed(model: nn.Module, own: Iterable[Tensor] = ()) -> bool:
    """True if each trained parameter has a tensor outside of the model that was changed in place
    many times and is near it.

    It looks at all objects of the process, which takes 0.05 to 0.3 s. An average that is stored in
    new tensors at each update is not seen.

    Args:
        model: The model.
        own: Further tensors that are its own, such as those of its optimizer.
    """
    parameters = [one for one in model.parameters() if one.requires_grad]
    known = {id(one) for one in (*parameters, *model.buffers(), *own)}
    by_shape: dict[torch.Size, list[Tensor]] = defaultdict(list)
    shapes = {one.shape for one in parameters}
    for one in gc.get_objects():
        # other classes may run code of their own when they are asked
        if type(one) not in (Tensor, nn.Parameter) or id(one) in known:
            continue
        if one.shape not in shapes or one.is_inference() or one._version < FEWEST:
            continue
        # another model that is trained for itself
        if one.is_leaf and one.grad is not None:
            continue
        by_shape[one.shape].append(one)
    return bool(parameters) and all(
        any(_is_near(other, one) for other in by_shape[one.shape]) for one in parameters
    )


def _is_near(other: Tensor, parameter: Tensor) -> bool:
    if other.device != parameter.device or other.dtype != parameter.dtype or other.is_sparse:
        return False
    distance, size = float((other - parameter).norm()), float(parameter.norm())
    return 0 < distance < NEAR * size
