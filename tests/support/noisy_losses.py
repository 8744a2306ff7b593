"""Losses without a spike: noise of many kinds on a falling loss, and losses that were recorded in
training."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from jaxtyping import Float

RECORDED = Path(__file__).with_name("recorded_losses.npz")
"""Losses and learning rates of twelve trainings, written by benchmarks/spike_losses.py in f76246b2."""

Losses = Float[np.ndarray, " steps"]
Noise = Callable[[np.random.Generator, int], Losses]


def falling(steps: int) -> Losses:
    return 2 * np.exp(-8 * np.arange(steps) / steps) + 0.5


def autoregressive(random: np.random.Generator, steps: int) -> Losses:
    noise = random.standard_normal(steps)
    for step in range(1, steps):
        noise[step] += 0.8 * noise[step - 1]
    return noise


def wandering(random: np.random.Generator, steps: int) -> Losses:
    """A spread that drifts by a factor of about two."""
    spread = np.exp(0.02 * np.cumsum(random.standard_normal(steps)))
    return np.asarray((1 + 0.05 * np.minimum(spread, 5) * random.standard_normal(steps)).clip(0.01))


NOISES: dict[str, Noise] = {
    "gaussian": lambda random, steps: falling(steps) * (1 + 0.1 * random.standard_normal(steps)),
    "gaussian about zero": lambda random, steps: random.standard_normal(steps),
    "lognormal": lambda random, steps: falling(steps) * np.exp(0.5 * random.standard_normal(steps)),
    "wide lognormal": lambda random, steps: np.exp(random.standard_normal(steps)),
    "student 3": lambda random, steps: falling(steps) + 0.05 * random.standard_t(3, steps),
    "laplace": lambda random, steps: 2 + 0.1 * random.laplace(size=steps),
    "exponential": lambda random, steps: random.exponential(size=steps),
    "gumbel": lambda random, steps: 2 + 0.1 * random.gumbel(size=steps),
    "mean of pareto": lambda random, steps: 0.1 + random.pareto(2.5, (steps, 8)).mean(axis=1),
    "autoregressive": lambda random, steps: 2 + 0.1 * autoregressive(random, steps),
    "wandering spread": wandering,
}


def without_variance(random: np.random.Generator, steps: int) -> Losses:
    """Noise with a heavier tail than the detector allows for: Student's t with 2 degrees of
    freedom."""
    return np.asarray(5 + 0.02 * random.standard_t(2, steps))
