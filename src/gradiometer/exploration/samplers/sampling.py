"""A run of a sampler: the temperature it was asked for and the one it had, and moments of functions of its draws."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from gradiometer.errors import Diverged
from gradiometer.exploration.samplers.sampler import Sampler
from gradiometer.exploration.temperature.virial import BLOCKS, Virial
from gradiometer.measurement.arguments import check_whole
from gradiometer.measurement.batch import Batch, batch_size, chunks
from gradiometer.measurement.estimate import Estimate
from gradiometer.measurement.objective import Objective
from gradiometer.measurement.uncertainty.means import mean

HALVED = 20
"""Steps from one pair of half-batch gradients to the next."""

SURE = 0.99
FEWEST_STEPS = 2 * BLOCKS


@dataclass(frozen=True)
class Moment:
    """A function of the draws.

    Args:
        mean: Its mean over the posterior.
        spread: Its standard deviation over the posterior.
        known: Its mean, where the posterior is known.
    """

    mean: Estimate
    spread: Estimate
    known: float | None = None

    @classmethod
    def of(cls, values: Float[np.ndarray, " draws"], known: float | None = None, level: float = 0.9) -> "Moment":
        """Both with intervals that know that draws depend on their neighbours."""
        square = mean((values - values.mean()) ** 2, level=level)
        low, value, high = (math.sqrt(max(end, 0.0)) for end in (square.low, square.value, square.high))
        method = f"root of the mean square: {square.method}"
        spread = Estimate.interval(value, low, high, level=level, method=method, samples=square.samples)
        return cls(mean(values, level=level), spread, known)


@dataclass(frozen=True)
class Sampled:
    """What a run of a sampler found, temperatures in posterior units.

    Args:
        asked: T.
        measured: E[(Φ − c)·∇U]/d, with c the mean of the run.
        bounds: The same at 99 %, on which a verdict rests.
        injected: What the sampler injects at the end.
        own: What SGD heats by itself, over the sampler's memory.
        minibatch: The part of it that is mini-batch noise.
        moments: Of every function.
        draws: Of every function, [draws].
    """

    asked: float
    measured: Estimate
    bounds: Estimate
    injected: float
    own: Estimate
    minibatch: Estimate
    moments: Mapping[str, Moment]
    draws: Mapping[str, Float[np.ndarray, " draws"]]

    @property
    def kept(self) -> bool:
        """Whether the temperature measured is not distinguishable from the one asked for, at 99 %."""
        return self.bounds.low <= self.asked <= self.bounds.high

    def to_dict(self) -> dict[str, Any]:
        """All but the draws, as `--json` prints it."""
        moments = {
            name: {"mean": m.mean.to_dict(), "spread": m.spread.to_dict(), "known": m.known}
            for name, m in self.moments.items()
        }
        names = ("measured", "bounds", "own", "minibatch")
        estimates = {name: getattr(self, name).to_dict() for name in names}
        return {"asked": self.asked, "injected": self.injected, "kept": self.kept, **estimates, "moments": moments}


def sample(
    sampler: Sampler,
    objective: Objective,
    batch_of: Callable[[int], Batch],
    functions: Mapping[str, Callable[[], float]],
    *,
    burn_in: int,
    steps: int,
    every: int = 10,
    known: Mapping[str, float] | None = None,
    level: float = 0.9,
) -> Sampled:
    """Run a sampler, forget the first steps, and measure the rest.

    The temperature is the configurational one, ⟨(Φ − c)·∇U⟩/d, with c the mean of the steps measured: by the heat
    balance it is what was put in less how fast the chain still moved. Directions slower than the run have not come to
    their temperature, and it reads low.

    Of 600 runs of 480 steps on a conjugate Gaussian, at nominal 90 %, the temperature was covered in 92 % by SGLD and
    SGHMC and in 96 % by SGNHT, whose thermostat brings back what went astray of the very number that is measured, so
    that its mean is surer than said; the means in 90 to 92 %, the spreads in 89 to 90 %.

    Args:
        sampler: Of one group, of the objective's parameters.
        objective: The model and its loss.
        batch_of: The batch of a step.
        functions: Numbers that depend on the model as it stands, drawn along the run.
        burn_in: Steps before the measurement.
        steps: Steps measured.
        every: Steps from one draw to the next.
        known: Means of functions, where they are known.
        level: Of all intervals.

    Raises:
        BadArgument: A setting is none, or SGD alone is hotter than asked.
        Diverged: The loss is not finite.
    """
    check_whole("burn_in", burn_in, 0)
    check_whole("steps", steps, FEWEST_STEPS)
    check_whole("every", every, 1)
    virial = Virial(_flat(objective.parameters), steps)
    draws: dict[str, list[float]] = {name: [] for name in functions}
    for step in range(burn_in + steps):
        batch = batch_of(step)
        _backward(objective, sampler, batch, step)
        if step % HALVED == 0 and sampler.param_groups[0]["temperature"] > 0:
            _hand_in_halves(objective, sampler, batch)
        if step >= burn_in:
            position = _flat(objective.parameters)
            gradient = _flat(p.grad for p in objective.parameters if p.grad is not None)
            virial.add(position, gradient + sampler.param_groups[0]["weight_decay"] * position)
        sampler.step()
        if step >= burn_in and (step - burn_in) % every == 0:
            for name, function in functions.items():
                draws[name].append(function())
    balance, examples = sampler.balance[0], sampler.param_groups[0]["examples"]
    arrays = {name: np.array(values) for name, values in draws.items()}
    moments = {name: Moment.of(values, (known or {}).get(name), level) for name, values in arrays.items()}
    return Sampled(
        asked=balance.asked,
        measured=virial.temperature(examples, level),
        bounds=virial.temperature(examples, SURE),
        injected=balance.injected,
        own=balance.own,
        minibatch=balance.minibatch,
        moments=moments,
        draws=arrays,
    )


def _flat(tensors: Iterable[Tensor]) -> Float[Tensor, " params"]:
    return torch.cat([tensor.detach().reshape(-1) for tensor in tensors])


def _backward(objective: Objective, sampler: Sampler, batch: Batch, step: int) -> None:
    sampler.zero_grad()
    loss = objective.loss(objective.model, batch).mean()
    if not math.isfinite(loss.item()):
        raise Diverged(f"the loss is {loss.item()} at step {step:,} of the sampler: try a smaller learning rate.")
    loss.backward()
    for parameter in objective.parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)


def _hand_in_halves(objective: Objective, sampler: Sampler, batch: Batch) -> None:
    """Two halves of the batch, where they can be told apart."""
    if batch_size(batch) < 4 or not objective.traits(batch).fixed:
        return
    first, second = (objective.gradient(part) for part in chunks(batch, 2))
    sampler.halves(first, second)
