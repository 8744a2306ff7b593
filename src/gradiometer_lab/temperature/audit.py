"""The audit: measure the temperature of an optimizer or a sampler on a quadratic with
a known law."""

import inspect
import math
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim import Optimizer

from gradiometer.arguments import check_number, check_whole
from gradiometer.errors import BadArgument, Diverged
from gradiometer.measurement.estimate import LEVEL, Estimate, significant
from gradiometer.measurement.uncertainty.arithmetic import transform
from gradiometer.measurement.uncertainty.means import FEWEST_READINGS, difference_of_means, mean
from gradiometer.randomness import untouched_randomness

Gradient = Callable[[Tensor], Tensor]

# Makes an optimizer from a list of parameters, such as `partial(torch.optim.SGD, lr=0.1)`.
MakeOptimizer = Callable[[list[Tensor]], Optimizer]

# One step of a functional sampler: (parameters, gradient, generator) → new parameters.
Step = Callable[[Tensor, Gradient, torch.Generator], Tensor]

CURVATURES = (0.1, 0.3, 1.0, 3.0)


@dataclass(frozen=True)
class Audit:
    """The temperature a sampler was asked for, and the temperature it has.

    Args:
        asked: The temperature asked for, in units of U.
        temperature: E⟨Φ, ∇U⟩/d over its iterates, the temperature measured.
        ratio: `temperature` / `asked`.
        by_curvature: h E φ² along each curvature h: the same for all if the law is exp(−U/T).
        trend: The temperature of the second half of the measured steps minus that of the first
            half.
    """

    asked: float
    temperature: Estimate
    ratio: Estimate
    by_curvature: tuple[tuple[float, Estimate], ...]
    trend: Estimate

    @property
    def keeps(self) -> bool:
        """True if the interval contains the temperature asked for."""
        return self.temperature.low <= self.asked <= self.temperature.high

    @property
    def settled(self) -> bool:
        """True if there is no significant trend."""
        return self.trend.low <= 0 <= self.trend.high

    def __str__(self) -> str:
        (flat, coldest), (stiff, hottest) = (
            pick(self.by_curvature, key=lambda each: each[1].value) for pick in (min, max)
        )
        words = (
            f"Asked for a temperature of {significant(self.asked)}, it runs at {self.temperature}, "
            f"{self.ratio} times that. By direction: from {coldest} at curvature "
            f"{significant(flat, 2)} to {hottest} at {significant(stiff, 2)}."
        )
        return (
            words
            if self.settled
            else f"{words} It had not settled: in the second half it changed by {self.trend}."
        )


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
    level: float = LEVEL,
    seed: int = 0,
) -> Audit:
    """Run a sampler on U(Φ) = ½ Σ hφ² and measure the temperature of its iterates.

    One parameter vector holds many copies of the same few directions. They start from exp(−U/T),
    the law asked for. The time averages of the copies are independent, so the interval does not
    depend on autocorrelation. Every copy must forget its start within `burn_in`, which takes about
    1/(ηh) steps along curvature h.

    Args:
        sampler: Makes an optimizer from a list of parameters, such as `partial(torch.optim.SGD,
            lr=0.1)`; or a step function `step(params, gradient, generator)` that returns the new
            parameters. The number of required arguments, one or three, decides which.
        temperature: The temperature T asked for, in units of U.
        curvatures: h of each direction, in units of U.
        noise: Variance of the gradient noise tr Σ/(Bd), Gaussian and the same in all directions.
        examples: N. The sampler gets the gradient of the mean loss U/N, as in training.
        steps: Number of steps.
        burn_in: Steps before the measurement. Default: a quarter of the steps.
        copies: Copies of every direction, at least 4.
        level: Confidence level.
        seed: Seed of the start, of the gradient noise and of torch's global generator, which is
            restored.

    Raises:
        BadArgument: An argument is out of range, or `sampler` is neither of the two.
        Diverged: The iterates are not finite.

    Example:
        >>> from functools import partial
        >>> import torch
        >>> from gradiometer_lab.temperature.audit import audit
        >>> found = audit(partial(torch.optim.SGD, lr=0.1), noise=20.0, steps=400)  # T = ηc/2 = 1 for small η
        >>> print(found.temperature)
        1.08 [1.03, 1.14]
    """
    check_number("temperature", temperature, positive=True)
    check_number("noise", noise)
    check_whole("examples", examples, 1)
    check_whole("steps", steps, 8)
    check_whole("copies", copies, FEWEST_READINGS)
    h = torch.tensor(list(curvatures), dtype=torch.float64).repeat(copies)
    if not (len(h) and (h > 0).all() and h.isfinite().all()):
        raise BadArgument(f"`curvatures` must be positive and finite, got {list(curvatures)}.")
    burn_in = steps // 4 if burn_in is None else burn_in
    if not 0 <= burn_in <= steps - 2:
        raise BadArgument(
            f"`burn_in` must lie between 0 and steps − 2 = {steps - 2}, got {burn_in}."
        )
    # A derived seed, because a sampler with seed 0 must not draw the same numbers as the gradient
    # noise.
    generator = torch.Generator().manual_seed(_seed_for(seed, "gradient"))
    start = torch.randn(len(h), dtype=torch.float64, generator=generator) * (temperature / h).sqrt()

    def gradient(position: Tensor) -> Tensor:
        exact = h * position.detach() / examples
        return exact + math.sqrt(noise) * torch.randn(
            len(h), dtype=torch.float64, generator=generator
        )

    with untouched_randomness(_seed_for(seed, "global"), [torch.device("cpu")]):
        sums = [torch.zeros_like(h), torch.zeros_like(h)]
        half = burn_in + (steps - burn_in) // 2
        for step, position in zip(
            range(steps), _positions(sampler, start, gradient, seed), strict=False
        ):
            if step >= burn_in:
                sums[step >= half] += h * position.detach().square()
            # Seldom is enough: what is not finite stays so.
            if step % 64 == 0 and not torch.isfinite(position).all():
                raise Diverged(
                    f"the sampler's iterates are not finite after {step + 1} steps: take a smaller "
                    "step."
                )
    counts = half - burn_in, steps - half
    first, second = (
        (total / count).view(copies, -1).numpy() for total, count in zip(sums, counts, strict=True)
    )
    whole = (counts[0] * first + counts[1] * second) / sum(counts)
    # Student's intervals over the copies
    settings: dict[str, Any] = {
        "level": level,
        "batches": copies,
    }
    measured = mean(whole.mean(axis=1), **settings)
    return Audit(
        asked=temperature,
        temperature=measured,
        ratio=transform(measured, lambda value: value / temperature),
        by_curvature=tuple(
            (h, mean(whole[:, place], **settings)) for place, h in enumerate(curvatures)
        ),
        trend=difference_of_means(second.mean(axis=1), first.mean(axis=1), **settings),
    )


def _positions(
    sampler: MakeOptimizer | Step, start: Tensor, gradient: Gradient, seed: int
) -> Iterator[Tensor]:
    """The position after each step, without end."""
    if not callable(sampler):
        raise BadArgument(
            "`sampler` must be a function that makes an optimizer from the audit's parameters, "
            f"such as partial(torch.optim.SGD, lr=0.1), got a {type(sampler).__name__}."
        )
    function = cast("Callable[..., Any]", sampler)
    # The number of required positional arguments.
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    arguments = sum(
        each.kind in positional and each.default is inspect.Parameter.empty
        for each in inspect.signature(function).parameters.values()
    )
    if arguments not in (1, 3):
        raise BadArgument(
            "`sampler` must take 1 argument (parameters) and make an optimizer, or 3 arguments "
            f"(parameters, gradient, generator) and make a step, got {arguments} arguments."
        )
    if arguments == 3:
        position, generator = start.clone(), torch.Generator().manual_seed(_seed_for(seed, "step"))
        while True:
            position = function(position, gradient, generator)
            yield position
    parameter = torch.nn.Parameter(start.clone())
    optimizer = function([parameter])
    if not isinstance(optimizer, Optimizer):
        raise BadArgument(
            f"`sampler` must make a torch.optim.Optimizer, got a {type(optimizer).__name__}."
        )
    while True:
        parameter.grad = gradient(parameter)
        optimizer.step()
        yield parameter


def _seed_for(seed: int, purpose: str) -> int:
    return zlib.crc32(f"audit/{seed}/{purpose}".encode())
