"""Averages of the iterates, as a `multi_avg_fn` for torch's `AveragedModel`, and BatchNorm
statistics for them.

At a constant η the iterates of SGD stay spread about the minimum, but their average converges. On a
quadratic the covariance of the uniform average of t iterates tends to H⁻¹ΣH⁻¹/(Bt) for every η: no
method that uses the same examples has a smaller one (Polyak & Juditsky 1992).

    averaged = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=polynomial(3))
    for batch in …:
        …; optimizer.step(); averaged.update_parameters(model)
    refresh_batch_norm(averaged, loader, loss)

All have the form mean ← mean + share · (Φ − mean): the share of the newest iterate is a function of
the number before it, and is 1 for the first. Tensors that are not floating point, such as
BatchNorm's count, are copied from the newest.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from gradiometer.errors import BadArgument
from gradiometer.measurement.batch import Batch
from gradiometer.measurement.untouched import in_eval_mode
from gradiometer.randomness import untouched_randomness


def tracking_layers(model: nn.Module) -> list[_BatchNorm]:
    """The BatchNorm layers with running statistics."""
    return [
        module
        for module in model.modules()
        if isinstance(module, _BatchNorm) and module.track_running_stats
    ]


# Most batches of a training, its newest ones, from which BatchNorm is measured again at an averaged
# point.
REFRESHED = 20


def refresh_batch_norm(
    model: nn.Module,
    batches: Iterable[Batch],
    forward: Callable[[nn.Module, Batch], Any],
    *,
    seed: int = 0,
) -> None:
    """Recompute BatchNorm's running statistics from these batches: averaged weights need new ones.

    Mean and variance are those of all values together, for any division into batches; torch's
    `update_bn` averages those within each batch. Only BatchNorm is in training mode. Everything
    else runs as at inference: with Dropout on, the variance would differ from that at inference.
    The mode of every module and all random states are restored. With several BatchNorm layers, the
    inputs of the later ones come from batches normalised by their own statistics, as in
    training: use batches as large as in training.

    Args:
        model: The averaged model, or any other. Without BatchNorm nothing happens.
        batches: Batches as the loss takes them, each of two examples or more.
        forward: Called as `forward(model, batch)`; the loss function will do.
        seed: Seed of what the model draws.

    Raises:
        BadArgument: There is no batch, or a batch has a single value per channel.

    Source: pooled mean and variance: Chan, Golub & LeVeque (1983), Algorithms for Computing the
    Sample Variance.
    """
    layers = tracking_layers(model)
    if not layers:
        return
    pooled = {layer: _Pooled() for layer in layers}
    devices = {parameter.device for parameter in model.parameters()}
    with torch.no_grad(), untouched_randomness(seed, devices), in_eval_mode(model):
        # Before each layer, as its inputs are what it normalises.
        hooks = [layer.register_forward_pre_hook(pooled[layer].see) for layer in layers]
        for layer in layers:
            layer.training = True
            # A batch is then normalised by its own statistics, as in training.
            layer.track_running_stats = False
        try:
            for batch in batches:
                forward(model, batch)
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            raise BadArgument(
                f"`batches` must have at least two examples each: {error}."
            ) from error
        finally:
            for layer, hook in zip(layers, hooks, strict=True):
                layer.track_running_stats = True
                hook.remove()
    if not any(statistics.count for statistics in pooled.values()):
        raise BadArgument(
            "`batches` must not be empty, and `forward` must call the BatchNorm layers."
        )
    for layer, statistics in pooled.items():
        statistics.put(layer)


@dataclass
class _Pooled:
    """Count, mean and sum of squared deviations of all values, per channel, in double precision."""

    count: int = 0
    batches: int = 0
    mean: Float[Tensor, " channels"] | float = 0.0
    squares: Float[Tensor, " channels"] | float = 0.0

    def see(self, layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        """Add the layer's input. A forward pre-hook."""
        values = inputs[0].detach().transpose(0, 1).flatten(1).double()
        count, mean = values.shape[1], values.mean(dim=1)
        # A plain sum of squares would lose all digits where the mean is far from zero.
        away, total = mean - self.mean, self.count + count
        self.squares = (
            self.squares
            + (values - mean[:, None]).square().sum(dim=1)
            + away**2 * self.count * count / total
        )
        self.mean = self.mean + away * count / total
        self.count = total
        self.batches = self.batches + 1

    def put(self, layer: _BatchNorm) -> None:
        """Write mean and unbiased variance into the layer, unless it was never called."""
        if self.count < 2 or layer.running_mean is None or layer.running_var is None:
            return
        layer.running_mean.copy_(torch.as_tensor(self.mean))
        layer.running_var.copy_(torch.as_tensor(self.squares) / (self.count - 1))
        if layer.num_batches_tracked is not None:
            layer.num_batches_tracked.fill_(self.batches)
