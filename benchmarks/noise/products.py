"""Trainings with the products of successive gradients, halves, two levels, and the truth along the
run."""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from gradiometer.integrations.watch.observers.products import MOST_WEIGHTS_LAST, WEIGHTS_LAST
from gradiometer.measurement.preconditioner import is_adaptive, preconditioner_of
from noise.runs import Data, Optimizer, Schedule, constant

LAGS = 8
"""Products are kept up to this lag. Only the first is used by what ships; the others show what it
leaves out."""

LEVELS_EVERY = 10
"""At every tenth step the batch is run once more at the parameters before, for the first way."""

NORMS_EVERY = 5
"""‖g‖² jumps from step to step, so it is known at every fifth step; tr Σ does not."""

COUPLED_BATCHES = 100
"""Batches behind a truth if the examples of a batch are coupled or the loss is random; a third for
‖g‖² alone."""

LARGE_CHUNK = 250
"""Examples of one backward pass for ‖g‖² alone."""

COLUMNS = (
    *("rate", "loss", "norm", "variance", "half_product", "level", "buffer"),
    *(f"product_{lag}" for lag in range(1, LAGS + 1)),
)
"""What is recorded at a step. `variance` and `half_product` are tr Σ and ‖g‖² from two halves."""


@dataclass(frozen=True)
class Training:
    """One training: data, model, loss, optimizer, schedule, and how it is read.

    Args:
        data: Makes inputs and targets.
        model: Makes the network.
        loss: Mean loss of a batch.
        optimizer: Makes the optimizer of the parameters.
        schedule: Factor of the rate at a share of the run.
        batch: Examples a step.
        steps: Steps of the run.
        reshuffled: Draw every epoch without replacement.
        coupled: True for BatchNorm, Dropout and the like: the gradient of a batch is not a mean
            over its examples.
        chunk: Examples of one backward pass in a full pass that gives tr Σ.
        passes: Full passes along the run.
    """

    data: Callable[[], Data]
    model: Callable[[], nn.Module]
    loss: Callable[[Tensor, Tensor], Tensor]
    optimizer: Optimizer
    schedule: Schedule = constant
    batch: int = 32
    steps: int = 1200
    reshuffled: bool = False
    coupled: bool = False
    chunk: int = 25
    passes: int = 60


def recorded(name: str, training: Training, cache: Path, seed: int = 0) -> dict[str, np.ndarray]:
    """The readings and the truth of a training: made once, then kept in the cache."""
    file = cache / f"{name}, seed {seed}.npz"
    if not file.exists():
        cache.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(".part.npz")
        np.savez(part, **Recording(training, seed).run())
        part.rename(file)
    with np.load(file) as kept:
        return dict(kept)


class Recording:
    """Trains a network and records it."""

    def __init__(self, training: Training, seed: int) -> None:
        torch.manual_seed(seed)
        self.training, self.seed = training, seed
        self.inputs, self.targets = training.data()
        self.model = training.model()
        self.parameters = list(self.model.parameters())
        self.optimizer = training.optimizer(self.parameters)
        self.adaptive = is_adaptive(self.optimizer)
        self.peak = float(self.optimizer.param_groups[0]["lr"])
        self.shapes = [parameter.shape for parameter in self.parameters]

    def run(self) -> dict[str, np.ndarray]:
        """`plain` and, under Adam's kind, `preconditioned`: [steps, COLUMNS]; truths.

        `truths` and `truths_preconditioned` are [passes, (step, tr Σ, ‖g‖²)]; `norms` is [passes,
        (step, ‖g‖², gᵀPg)].
        """
        training = self.training
        order = self._order()
        kept: deque[Tensor] = deque(maxlen=LAGS)
        before: Tensor | None = None
        # P as a watched loop holds it, and the step from before which it is.
        held: Tensor | None = None
        held_of = 0
        plain, preconditioned, truths, truths_preconditioned, norms = [], [], [], [], []
        every = training.steps // training.passes
        for step in range(training.steps):
            rate = self.peak * training.schedule(step / training.steps)
            self.optimizer.param_groups[0]["lr"] = rate
            chosen = next(order)
            weights = self.weights()
            if step % every == every - 1:
                found = self.truth(weights, step, whole=True)
                truths.append((step, *found[0]))
                truths_preconditioned.append((step, *found[1]))
            if step % NORMS_EVERY == NORMS_EVERY - 1:
                found = self.truth(weights, step, whole=False)
                norms.append((step, found[0][1], found[1][1]))
            loss, gradient, halves = self.gradients(chosen)
            level = None
            if step % LEVELS_EVERY == LEVELS_EVERY - 1 and before is not None:
                level = gradient - self.at(before, chosen)
            before = self.flat([parameter.detach() for parameter in self.parameters]).clone()
            memory = self.memory()
            read = rate, loss, gradient, halves, level, memory, list(kept)
            plain.append(self.row(*read, None))
            if held is not None:
                preconditioned.append(self.row(*read, held))
            elif self.adaptive:
                preconditioned.append([np.nan] * len(COLUMNS))
            if weights is not None and (
                held is None or step - held_of >= min(step * WEIGHTS_LAST, MOST_WEIGHTS_LAST)
            ):
                held, held_of = weights, step
            kept.appendleft(gradient)
            for parameter, part in zip(self.parameters, self.split(gradient), strict=True):
                parameter.grad = part.clone()
            self.optimizer.step()
        return {
            "plain": np.array(plain),
            "preconditioned": np.array(preconditioned),
            "truths": np.array(truths),
            "truths_preconditioned": np.array(truths_preconditioned),
            "norms": np.array(norms),
            "size": np.array(
                [sum(p.numel() for p in self.parameters), training.batch, len(self.inputs)]
            ),
            "momentum": np.array(self.momentum()),
        }

    def row(
        self,
        rate: float,
        loss: float,
        gradient: Tensor,
        halves: tuple[Tensor, Tensor],
        level: Tensor | None,
        memory: Tensor | None,
        past: list[Tensor],
        weights: Tensor | None,
    ) -> list[float]:
        """The numbers of one step, with P if `weights` are given."""
        weighted = gradient if weights is None else weights * gradient
        one, two = halves
        one_weighted = one if weights is None else weights * one
        two_weighted = two if weights is None else weights * two
        half = len(self.inputs[: self.training.batch]) // 2
        product = float(one_weighted @ two)
        variance = half * (float(one_weighted @ one) + float(two_weighted @ two) - 2 * product) / 2
        numbers = [rate, loss, float(weighted @ gradient), variance, product]
        weighted_level = level if level is None or weights is None else weights * level
        is_known = weighted_level is not None and past
        numbers.append(float(past[0] @ weighted_level) if is_known else np.nan)
        numbers.append(np.nan if memory is None else float(memory @ weighted))
        numbers += [float(each @ weighted) for each in past]
        return numbers + [np.nan] * (len(COLUMNS) - len(numbers))

    def momentum(self) -> float:
        """μ, or β₁ of Adam's kind."""
        group = self.optimizer.param_groups[0]
        return float(group["betas"][0]) if "betas" in group else float(group.get("momentum", 0.0))

    def memory(self) -> Tensor | None:
        """The momentum buffer before the update, or the mean gradient of Adam's kind."""
        state = self.optimizer.state
        for key in ("momentum_buffer", "exp_avg"):
            if all(state.get(p, {}).get(key) is not None for p in self.parameters):
                return self.flat([state[p][key] for p in self.parameters])
        return None

    def weights(self) -> Tensor | None:
        """P, before the update."""
        if not self.adaptive:
            return None
        found = preconditioner_of(self.optimizer, self.parameters)
        return None if found is None else self.flat(found)

    def gradients(self, chosen: Tensor) -> tuple[float, Tensor, tuple[Tensor, Tensor]]:
        """The loss, ĝ, and the gradients of two halves of the batch."""
        half = len(chosen) // 2
        losses, parts = zip(
            *(self.gradient(each) for each in (chosen[:half], chosen[half:])), strict=True
        )
        if not self.training.coupled:
            return sum(losses) / 2, (parts[0] + parts[1]) / 2, parts
        loss, whole = self.gradient(chosen)
        return loss, whole, parts

    def gradient(self, chosen: Tensor) -> tuple[float, Tensor]:
        """The mean loss of these examples and its gradient."""
        loss = self.training.loss(self.model(self.inputs[chosen]), self.targets[chosen])
        return float(loss.detach()), self.flat(torch.autograd.grad(loss, self.parameters))

    def at(self, before: Tensor, chosen: Tensor) -> Tensor:
        """The gradient of a batch at other parameters."""
        here = self.flat([parameter.detach() for parameter in self.parameters]).clone()
        self._place(before)
        _, gradient = self.gradient(chosen)
        self._place(here)
        return gradient

    def truth(
        self, weights: Tensor | None, step: int, *, whole: bool
    ) -> tuple[tuple[float, float], ...]:
        """tr Σ and ‖g‖², then both with P (NaN without). tr Σ is right only if `whole`."""
        training = self.training
        with torch.random.fork_rng():
            if training.coupled:
                generator = torch.Generator().manual_seed(1000 + step)
                count = COUPLED_BATCHES if whole else COUPLED_BATCHES // 3
                batches = torch.randint(
                    len(self.inputs), (count, training.batch), generator=generator
                )
                chunks, size = list(batches), training.batch
            else:
                shuffled = torch.randperm(
                    len(self.inputs), generator=torch.Generator().manual_seed(1)
                )
                size = training.chunk if whole else LARGE_CHUNK
                chunks = list(shuffled.split(size))
            total = torch.zeros(sum(p.numel() for p in self.parameters))
            squares, squares_weighted = 0.0, 0.0
            for chosen in chunks:
                _, gradient = self.gradient(chosen)
                total += gradient * (len(chosen) * len(chunks) / sum(map(len, chunks)))
                squares += float(gradient @ gradient)
                if weights is not None:
                    squares_weighted += float((weights * gradient) @ gradient)
        count = len(chunks)
        mean = total / count
        found = []
        norms = (mean @ mean, torch.nan if weights is None else (weights * mean) @ mean)
        for norm, square in zip(norms, (squares, squares_weighted), strict=True):
            variance = size * (square / count - float(norm)) * count / (count - 1)
            correction = variance / (size * count) if training.coupled else 0.0
            found.append((variance, float(norm) - correction))
        return found[0], found[1]

    def flat(self, tensors: list[Tensor] | tuple[Tensor, ...]) -> Tensor:
        """One vector of all of them."""
        return torch.cat([tensor.reshape(-1) for tensor in tensors])

    def split(self, vector: Tensor) -> list[Tensor]:
        """The vector as tensors of the parameters' shapes."""
        parts = vector.split([shape.numel() for shape in self.shapes])
        return [part.view(shape) for part, shape in zip(parts, self.shapes, strict=True)]

    def _place(self, vector: Tensor) -> None:
        with torch.no_grad():
            for parameter, part in zip(self.parameters, self.split(vector), strict=True):
                parameter.copy_(part)

    def _order(self) -> Iterator[Tensor]:
        generator = torch.Generator().manual_seed(3 + self.seed)
        count, batch = len(self.inputs), self.training.batch
        while True:
            if not self.training.reshuffled:
                yield torch.randint(count, (batch,), generator=generator)
            else:
                shuffled = torch.randperm(count, generator=generator)
                yield from shuffled[: count - count % batch].split(batch)
