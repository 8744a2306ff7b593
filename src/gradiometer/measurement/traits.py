"""Finds out whether a loss is a fixed function of the batch, by running it on the batch and on
parts of it."""

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from gradiometer.errors import UserCodeFailed
from gradiometer.measurement.batch import Batch, batch_size, chunks, join_batches, span
from gradiometer.measurement.untouched import Surroundings
from gradiometer.randomness import numpy_state


@dataclass(frozen=True)
class Traits:
    """The kind of function of the batch that a loss is.

    Args:
        random: The loss draws random numbers (Dropout, augmentation inside the model).
        coupled: The loss of a batch is not the mean of the losses of its parts (batch statistics,
            weights normalised over the batch, contrastive losses).
    """

    random: bool = False
    coupled: bool = False

    @property
    def fixed(self) -> bool:
        """True if the gradient of a batch is the mean of the gradients of its parts. Then one of
        these gradients follows from the others by subtraction."""
        return not (self.random or self.coupled)

    def __or__(self, other: "Traits") -> "Traits":
        return Traits(self.random or other.random, self.coupled or other.coupled)


def probe_traits(
    mean_loss: Callable[[Batch], Tensor],
    model: nn.Module,
    batch: Batch,
    devices: Iterable[torch.device],
    surroundings: Surroundings,
) -> Traits:
    """The traits that this batch shows: compares its loss with the losses of three parts of
    different sizes.

    Args:
        mean_loss: The mean loss of a batch.
        model: The model in this loss.
        batch: The examples.
        devices: Devices whose random state may change.
        surroundings: Generators and other models that the loss may use.

    Raises:
        UserCodeFailed: The loss is a sum over the examples.
    """
    devices, size = list(devices), batch_size(batch)
    pythons, before, own = random.getstate(), _generator_states(devices), surroundings.states()
    whole = mean_loss(batch)
    drawn = before != _generator_states(devices) or own != surroundings.states()
    # perhaps for something else: checkers of types draw examples
    if not drawn and pythons != random.getstate():
        drawn = not torch.equal(whole, mean_loss(batch))
    coupled = _use_batch_statistics([*model.modules(), *surroundings.modules])
    if drawn or coupled or size < 2:
        # random numbers would hide a coupling of other kinds
        return Traits(random=drawn, coupled=coupled)
    parts = _uneven(batch, size)
    losses = torch.stack([mean_loss(part) for part in parts])
    twice = mean_loss(join_batches([parts[-1], parts[-1]]))
    weights = torch.tensor(
        [batch_size(part) / size for part in parts], dtype=losses.dtype, device=losses.device
    )
    tolerance = min(1e3 * torch.finfo(losses.dtype).eps, 1e-2)  # the rounding error of sums
    differs = (whole - weights @ losses).abs() > tolerance * (weights @ losses.abs())
    sums = torch.stack([whole - losses.sum(), twice - 2 * losses[-1]]).abs()
    if differs and (sums <= tolerance * losses.abs().sum()).all():
        raise UserCodeFailed(
            "`loss` is the sum over the examples of a batch: return their mean, or one value per "
            "example."
        )
    return Traits(coupled=bool(differs))


def _use_batch_statistics(modules: Iterable[nn.Module]) -> bool:
    return any(
        isinstance(module, _BatchNorm) and (module.training or module.running_mean is None)
        for module in modules
    )


def _uneven(batch: Batch, size: int) -> list[Batch]:
    """Parts of different sizes. Equal halves could agree by chance if the loss divides
    by a count."""
    if size < 6:
        return chunks(batch, 2)
    return [
        span(batch, 0, size // 6),
        span(batch, size // 6, size // 2),
        span(batch, size // 2, size),
    ]


def _generator_states(devices: Iterable[torch.device]) -> tuple[object, ...]:
    """The states of NumPy's global generator, and of torch's on the CPU and on these devices."""
    accelerators = (device for device in devices if device.type != "cpu")
    states = [
        torch.get_device_module(device.type).get_rng_state(device).tolist()
        for device in accelerators
    ]
    return numpy_state(), torch.get_rng_state().tolist(), states
