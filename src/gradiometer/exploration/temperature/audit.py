"""The audit: at what temperature an optimizer or a sampler really runs, on a quadratic whose law is known."""

import inspect
import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.optim import Optimizer

from gradiometer.errors import BadArgument, Diverged
from gradiometer.measurement.estimate import Estimate, significant
from gradiometer.measurement.uncertainty.arithmetic import transformed
from gradiometer.measurement.uncertainty.means import FEWEST_READINGS, difference_of_means, mean
from gradiometer.measurement.untouched import untouched_randomness

Gradient = Callable[[Tensor], Tensor]
MakeOptimizer = Callable[[list[Tensor]], Optimizer]
"""Makes an optimizer of parameters, such as `partial(torch.optim.SGD, lr=0.1)`."""
Step = Callable[[Tensor, Gradient, torch.Generator], Tensor]
"""One step of a functional sampler: (parameters, gradient, generator) to new parameters."""

CURVATURES = (0.1, 0.3, 1.0, 3.0)
CHECK_EVERY = 64
"""Steps between looks whether the iterates are still finite."""


@dataclass(frozen=True)
class Audit:
    """What a sampler was asked for, and what it does.

    Args:
        asked: The temperature it was asked for, in units of the energy.
        temperature: E⟨Φ, ∇U⟩/d over its iterates, the temperature it runs at.
        ratio: The same over what was asked.
        by_curvature: hE φ² along each curvature h: one number for all of them if its law is exp(−U/T).
        trend: Temperature in the second half of what was looked at less that in the first: whether it has settled.
    """

    asked: float
    temperature: Estimate
    ratio: Estimate
    by_curvature: tuple[tuple[float, Estimate], ...]
    trend: Estimate

    @property
    def keeps(self) -> bool:
        """Whether the interval holds the temperature asked for."""
        return self.temperature.low <= self.asked <= self.temperature.high

    @property
    def settled(self) -> bool:
        """Whether no trend was seen."""
        return self.trend.low <= 0 <= self.trend.high

    def __str__(self) -> str:
        (flat, coldest), (stiff, hottest) = (
            pick(self.by_curvature, key=lambda each: each[1].value) for pick in (min, max)
        )
        words = (
            f"Asked for a temperature of {significant(self.asked)}, it runs at {self.temperature}, {self.ratio} times "
            f"that; by direction from {coldest} at curvature {significant(flat, 2)} to {hottest} at "
            f"{significant(stiff, 2)}."
        )
        return words if self.settled else f"{words} It had not settled: over the second half it moved by {self.trend}."


def audit(
    sampler: MakeOptimizer | Step,
    *,
    temperature: float = 1.0,
    curvatures: Sequence[float] = CURVATURES,
    noise: float = 0.0,
    examples: int = 1,
    steps: int = 4000,
    burn_in: int | None = None,
    copies: int = 64,
    level: float = 0.9,
    seed: int = 0,
) -> Audit:
    """Run a sampler on U(Φ) = ½ Σ hφ² and measure the temperature of its iterates.

    Many copies of the same few directions make one point of copies × directions parameters, which start at the law
    asked for, exp(−U/T). Their averages over time are independent of one another, so that the interval rests on them
    and knows of no autocorrelation. A copy must forget its start within `burn_in` for it to mean anything: that
    takes about 1/(ηh) steps along curvature h.

    Args:
        sampler: Makes an optimizer of a list of parameters, `partial(torch.optim.SGD, lr=0.1)`; or makes one step,
            `step(params, gradient, generator)`, and returns the new parameters. It is told from the other by how many
            arguments it must be given, one or three.
        temperature: T, that it was asked for, in units of U.
        curvatures: h of each direction, in units of U.
        noise: Variance of the noise of the gradient that it is given, Gaussian, the same in all directions: tr Σ/(Bd).
        examples: N: the gradient given is that of the mean loss, U/N, as a training has it.
        steps: How many it makes.
        burn_in: Steps that are not looked at; left out, a quarter.
        copies: Of every direction, at least 4.
        level: Confidence level.
        seed: Of the start, of the noise of the gradient, and of torch's global generator, which is put back.

    Raises:
        BadArgument: An argument makes no sense, or `sampler` is neither.
        Diverged: The iterates stopped being finite.

    Example:
        >>> from functools import partial
        >>> print(audit(partial(torch.optim.SGD, lr=0.1), noise=20.0))  # doctest: +SKIP
    """
    _check(temperature, curvatures, noise, examples, steps, copies)
    burn_in = steps // 4 if burn_in is None else burn_in
    if not 0 <= burn_in <= steps - 2:
        raise BadArgument(f"`burn_in` must lie between 0 and steps − 2 = {steps - 2}, got {burn_in}.")
    # Seeds of its own: a sampler whose noise has the seed 0 must not meet it again in the noise of the gradient.
    generator = torch.Generator().manual_seed(_derived(seed, "gradient"))
    h = torch.tensor(list(curvatures), dtype=torch.float64).repeat(copies)
    start = torch.randn(len(h), dtype=torch.float64, generator=generator) * (temperature / h).sqrt()

    def gradient(position: Tensor) -> Tensor:
        exact = h * position.detach() / examples
        return exact + math.sqrt(noise) * torch.randn(len(h), dtype=torch.float64, generator=generator)

    with untouched_randomness(_derived(seed, "global"), [torch.device("cpu")]):
        advance = _advancing(sampler, start, gradient, seed)
        sums = [torch.zeros_like(h), torch.zeros_like(h)]
        half = burn_in + (steps - burn_in) // 2
        for step in range(steps):
            position = advance()
            if step >= burn_in:
                sums[step >= half] += h * position.detach().square()
            if step % CHECK_EVERY == 0 and not torch.isfinite(position).all():
                raise Diverged(f"the sampler's iterates are not finite after {step + 1} steps: take a smaller step.")
    counts = half - burn_in, steps - half
    first, second = ((total / count).view(copies, -1).numpy() for total, count in zip(sums, counts, strict=True))
    whole = (counts[0] * first + counts[1] * second) / sum(counts)
    return _judged(temperature, tuple(curvatures), whole, first, second, level)


def _judged(
    asked: float,
    curvatures: tuple[float, ...],
    whole: Float[np.ndarray, "copies directions"],
    first: Float[np.ndarray, "copies directions"],
    second: Float[np.ndarray, "copies directions"],
    level: float,
) -> Audit:
    """Student's intervals over the copies."""
    settings: dict[str, Any] = {"level": level, "batches": len(whole)}
    temperature = mean(whole.mean(axis=1), **settings)
    return Audit(
        asked=asked,
        temperature=temperature,
        ratio=transformed(temperature, lambda value: value / asked),
        by_curvature=tuple((h, mean(whole[:, place], **settings)) for place, h in enumerate(curvatures)),
        trend=difference_of_means(second.mean(axis=1), first.mean(axis=1), **settings),
    )


def _advancing(sampler: MakeOptimizer | Step, start: Tensor, gradient: Gradient, seed: int) -> Callable[[], Tensor]:
    """A function that makes one step and says where it led."""
    kind = _arguments(sampler)
    if kind == 1:
        position = torch.nn.Parameter(start.clone())
        optimizer = cast("MakeOptimizer", sampler)([position])
        if not isinstance(optimizer, Optimizer):
            raise BadArgument(f"`sampler` made a {type(optimizer).__name__}, a torch.optim.Optimizer was expected.")

        def advance() -> Tensor:
            position.grad = gradient(position)
            optimizer.step()
            return position

        return advance
    if kind == 3:
        step, generator, held = (
            cast("Step", sampler),
            torch.Generator().manual_seed(_derived(seed, "step")),
            [start.clone()],
        )

        def advance_held() -> Tensor:
            held[0] = step(held[0], gradient, generator)
            return held[0]

        return advance_held
    raise BadArgument(
        f"`sampler` takes {kind} arguments: give a function of a list of parameters that makes an optimizer, or a step "
        "of (parameters, gradient, generator)."
    )


def _derived(seed: int, purpose: str) -> int:
    return zlib.crc32(f"audit/{seed}/{purpose}".encode())


def _arguments(sampler: Callable[..., Any]) -> int:
    """How many arguments it must be given by position."""
    if not callable(sampler):
        raise BadArgument(
            f"`sampler` is a {type(sampler).__name__}, a function was expected: partial(torch.optim.SGD, lr=0.1), so "
            "that the audit can make one of its own parameters."
        )
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    given = inspect.signature(sampler).parameters.values()
    return sum(each.kind in positional and each.default is inspect.Parameter.empty for each in given)


def _check(
    temperature: float, curvatures: Sequence[float], noise: float, examples: int, steps: int, copies: int
) -> None:
    if not 0 < temperature < math.inf:
        raise BadArgument(f"`temperature` must be positive and finite, got {temperature}.")
    if not (len(curvatures) and all(0 < h < math.inf for h in curvatures)):
        raise BadArgument(f"`curvatures` must be positive and finite, got {list(curvatures)}.")
    if not 0 <= noise < math.inf:
        raise BadArgument(f"`noise` must be at least 0 and finite, got {noise}.")
    if not examples >= 1:
        raise BadArgument(f"`examples` must be at least 1, got {examples}.")
    if not steps >= 8:
        raise BadArgument(f"`steps` must be at least 8, got {steps}.")
    if not copies >= FEWEST_READINGS:
        raise BadArgument(f"`copies` must be at least {FEWEST_READINGS}, got {copies}.")
