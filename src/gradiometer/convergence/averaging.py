"""Averages of the iterates, as a `multi_avg_fn` for torch's `AveragedModel`, and BatchNorm statistics for them.

At a constant η the iterates of SGD stay spread about the minimum, but their average converges. On a quadratic the
covariance of the uniform average of t iterates tends to H⁻¹ΣH⁻¹/(Bt) for every η: no method that uses the same
examples has a smaller one (Polyak & Juditsky 1992).

    averaged = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=polynomial(3))
    for batch in …:
        …; optimizer.step(); averaged.update_parameters(model)
    refresh_batch_norm(averaged, loader, loss)

All have the form mean ← mean + share · (Φ − mean): the share of the newest iterate is a function of the number before
it, and is 1 for the first. Tensors that are not floating point, such as BatchNorm's count, are copied from the newest.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from gradiometer.arguments import check_whole
from gradiometer.convergence.formulas.number import Amount
from gradiometer.errors import BadArgument
from gradiometer.measurement.batch import Batch
from gradiometer.measurement.untouched import in_eval_mode
from gradiometer.randomness import untouched_randomness

MultiAverage = Callable[[list[Tensor], list[Tensor], Tensor | int], None]
"""Called by `AveragedModel` with the averages, the newest parameters and the number averaged so far."""


def uniform() -> MultiAverage:
    """The mean of all iterates: share 1/(n + 1) after n.

    The start keeps weight 1/t: for a run that began far away, `suffix` or `polynomial` is better.

    Source: Polyak & Juditsky (1992), Acceleration of Stochastic Approximation by Averaging.

    >>> import torch
    >>> from gradiometer.convergence import uniform
    >>> model = torch.nn.Linear(1, 1)
    >>> averaged = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=uniform())
    >>> for value in (1.0, 2.0, 6.0):
    ...     _ = model.weight.data.fill_(value)
    ...     averaged.update_parameters(model)
    >>> averaged.module.weight.item()
    3.0
    """
    return _average(lambda before: 1 / (before + 1))


def suffix(updates: int, share: Amount = 0.5) -> MultiAverage:
    """The mean of the last part of the iterates; before that part begins, the newest iterate itself.

    Args:
        updates: Total number of iterates; later ones are averaged in too.
        share: The part that is averaged, above 0 and at most 1.

    Source: Rakhlin, Shamir & Sridharan (2012), Making Gradient Descent Optimal for Strongly Convex Stochastic
        Optimization, section 5.
    """
    check_whole("updates", updates, 1)
    if not 0 < share <= 1:
        raise BadArgument(f"`share` must be above 0 and at most 1, got {share}: 0.5 averages the last half.")
    first = min(int((1 - share) * updates), updates - 1)
    return _average(lambda before: 1 / max(before - first + 1, 1))


def exponential(decay: Amount) -> MultiAverage:
    """Weights that fall by `decay` from each iterate to the one before, and sum to 1: share (1 − d)/(1 − d^(n+1)).

    Torch's `get_ema_multi_avg_fn` gives the first iterate the weight d^n, which dominates the first 1/(1 − d) updates;
    this one does not. It averages over 1/(1 − d) iterates, so its covariance stays proportional to η.

    Args:
        decay: d, in [0, 1).

    Source: Kingma & Ba (2015), Adam, section 3, for the correction.
    """
    if not 0 <= decay < 1:
        raise BadArgument(f"`decay` must be at least 0 and below 1, got {decay}: 0.999 remembers about 1,000 iterates.")
    return _average(lambda before: (1 - decay) / (1 - decay ** (before + 1)))


def polynomial(power: Amount = 3) -> MultiAverage:
    """Weights that grow about as t^power: share (γ + 1)/(t + γ) at the t-th iterate. The start is soon forgotten.

    The number of updates need not be known, and the cost is small: in the long run the variance on a quadratic is
    about (γ + 1)²/(2γ + 1) times that of the uniform average, 2.3 at γ = 3.

    Args:
        power: γ, at least 0; 0 is the uniform average.

    Source: Shamir & Zhang (2013), Stochastic Gradient Descent for Non-smooth Optimization, section 4.
    """
    if not 0 <= power < float("inf"):
        raise BadArgument(f"`power` must be a number of at least 0, got {power}.")
    return _average(lambda before: (power + 1) / (before + 1 + power))


def _average(share: Callable[[int], float]) -> MultiAverage:
    @torch.no_grad()
    def average(averages: list[Tensor], newest: list[Tensor], averaged: Tensor | int) -> None:
        if averages[0].is_floating_point() or averages[0].is_complex():
            torch._foreach_lerp_(averages, newest, share(int(averaged)))
        else:
            torch._foreach_copy_(averages, newest)

    return average


def tracked(model: nn.Module) -> list[_BatchNorm]:
    """The BatchNorm layers with running statistics."""
    return [module for module in model.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]


REFRESHED = 20
"""Most batches of a training, its newest ones, from which BatchNorm is measured again at an averaged point."""


def refresh_batch_norm(
    model: nn.Module, batches: Iterable[Batch], forward: Callable[[nn.Module, Batch], Any], *, seed: int = 0
) -> None:
    """Recompute BatchNorm's running statistics from these batches: averaged weights need new ones.

    Mean and variance are those of all values together, for any division into batches; torch's `update_bn` averages
    those within each batch. Only BatchNorm is in training mode. Everything else runs as at inference: with Dropout on,
    the variance would differ from that at inference. The mode of every module and all random states are restored. With
    several BatchNorm layers, the inputs of the later ones come from batches normalised by their own statistics, as in
    training: use batches as large as in training.

    Args:
        model: The averaged model, or any other. Without BatchNorm nothing happens.
        batches: Batches as the loss takes them, each of two examples or more.
        forward: Called as `forward(model, batch)`; the loss function will do.
        seed: Seed of what the model draws.

    Raises:
        BadArgument: There is no batch, or a batch has a single value per channel.

    Source: pooled mean and variance: Chan, Golub & LeVeque (1983), Algorithms for Computing the Sample Variance.
    """
    layers = tracked(model)
    if not layers:
        return
    pooled = {layer: _Pooled() for layer in layers}
    devices = {parameter.device for parameter in model.parameters()}
    with torch.no_grad(), untouched_randomness(seed, devices), _only_training(model, layers):
        hooks = [layer.register_forward_pre_hook(pooled[layer].see) for layer in layers]
        try:
            for batch in batches:
                forward(model, batch)
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            raise BadArgument(f"`batches` must have at least two examples each: {error}.") from error
        finally:
            for hook in hooks:
                hook.remove()
    if not any(statistics.count for statistics in pooled.values()):
        raise BadArgument("`batches` must not be empty, and `forward` must call the BatchNorm layers.")
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
        away, total = mean - self.mean, self.count + count
        self.squares = (
            self.squares + (values - mean[:, None]).square().sum(dim=1) + away**2 * self.count * count / total
        )
        self.mean = self.mean + away * count / total
        self.count, self.batches = total, self.batches + 1

    def put(self, layer: _BatchNorm) -> None:
        """Write mean and unbiased variance into the layer, unless it was never called."""
        if self.count < 2 or layer.running_mean is None or layer.running_var is None:
            return
        layer.running_mean.copy_(torch.as_tensor(self.mean))
        layer.running_var.copy_(torch.as_tensor(self.squares) / (self.count - 1))
        if layer.num_batches_tracked is not None:
            layer.num_batches_tracked.fill_(self.batches)


@contextmanager
def _only_training(model: nn.Module, layers: Sequence[_BatchNorm]) -> Iterator[None]:
    """Put these layers in training mode without running statistics, and everything else in evaluation mode."""
    with in_eval_mode(model):
        for layer in layers:
            layer.training, layer.track_running_stats = True, False
        try:
            yield
        finally:
            for layer in layers:
                layer.track_running_stats = True
