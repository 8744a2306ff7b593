"""BatchNorm's running statistics, estimated anew for weights that training has not run at."""

from collections.abc import Callable, Iterable

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from gradiometer.measurement.batch import Batch
from gradiometer.measurement.untouched import untouched_randomness


def tracked(model: nn.Module) -> list[_BatchNorm]:
    """The BatchNorm layers that keep running statistics."""
    return [module for module in model.modules() if isinstance(module, _BatchNorm) and module.running_mean is not None]


def refresh_batch_norm(
    model: nn.Module, forward: Callable[[nn.Module, Batch], object], batches: Iterable[Batch]
) -> None:
    """Replace the running means and variances by their averages over the batches, in place.

    Running averages lag behind the weights, and an average of weights, or a point between two, has none of its own.
    As torch's `update_bn` does, the whole model is in training mode meanwhile, so that Dropout acts as in training.
    Mode, momentum and every random state are left as they were; a model without BatchNorm is not run at all.

    Args:
        model: Whose statistics to replace.
        forward: Runs the model on a batch, such as a problem's loss.
        batches: Of training data, of equal size.

    Source: Izmailov et al. (2018), Averaging Weights Leads to Wider Optima and Better Generalization, section 3.2.
    """
    layers = tracked(model)
    if not layers:
        return
    modes = [(module, module.training) for module in model.modules()]
    momenta = [layer.momentum for layer in layers]
    devices = {parameter.device for parameter in model.parameters()}
    try:
        model.train()
        for layer in layers:
            layer.reset_running_stats()
            layer.momentum = None  # a plain average over the batches
        with torch.no_grad(), untouched_randomness(0, devices):
            for batch in batches:
                forward(model, batch)
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
        for module, training in modes:
            module.training = training
