"""What measuring must not change, as values that compare bit for bit."""

import numpy as np
import torch
from torch import nn


def everything(model: nn.Module) -> list:
    """Everything that measuring must not change, as values that compare bit for bit."""
    tensors = [
        *model.parameters(),
        *model.buffers(),
        *(p.grad for p in model.parameters() if p.grad is not None),
    ]
    return [
        [
            tensor.detach().clone().view(torch.uint8).tolist() if tensor.dim() else tensor.item()
            for tensor in tensors
        ],
        [module.training for module in model.modules()],
        torch.get_rng_state().tolist(),
        [np.asarray(part).tolist() for part in np.random.get_state()],  # noqa: NPY002
        [p.requires_grad for p in model.parameters()],
        [(name, type(p)) for name, p in model.named_parameters(remove_duplicate=False)],
    ]
