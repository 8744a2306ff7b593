"""SGD on noisy quadratics with a known stationary state, many runs at once, with the products of
its gradients."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from gradiometer.estimation.products import GradientMemory, Signal, signal

BATCH = 16
"""Examples of a batch."""

PARAMETERS = 20

BETA2 = 0.99
EPSILON = 1e-8

Runs = Float[np.ndarray, "runs steps"]


@dataclass(frozen=True)
class Rule:
    """An optimizer.

    Args:
        name: Its name.
        momentum: How it remembers gradients.
        adaptive: True for AdamW.
    """

    name: str
    momentum: GradientMemory
    adaptive: bool = False


RULES = (
    Rule("plain SGD", GradientMemory()),
    Rule("heavy ball 0.9", GradientMemory(0.9)),
    Rule("Nesterov 0.9", GradientMemory(0.9, nesterov=True)),
    Rule("AdamW", GradientMemory(0.9), adaptive=True),
)


@dataclass(frozen=True)
class Walk:
    """What is recorded of some runs, each [runs, steps]. Under AdamW all products are under P.

    Attributes:
        product, norm_squared, memory, loss: See `gradiometer.estimation.products.signal`.
        level: ⟨ĝ_{t−1}, ĝ_t(Φ_t) − ĝ_t(Φ_{t−1})⟩, exact in expectation: the truth to compare with.
        truth: ‖g‖², or gᵀPg.
        variance: tr Σ, or tr PΣ.
        rate: η, or η(1 − β₁).
    """

    product: Runs
    norm_squared: Runs
    memory: Runs
    loss: Runs
    level: Runs
    truth: Runs
    variance: Runs
    rate: float


def walk(
    rule: Rule, size: float, *, runs: int, steps: int, seed: int, settle: int | None = None
) -> Walk:
    """Simulate the runs at stationarity, from a quadratic whose curvatures are spread over a factor
    of 30.

    Args:
        rule: The optimizer.
        size: η h of the largest curvature h (under AdamW η P h).
        runs: Number of runs.
        steps: Recorded steps of each.
        seed: Seed of the random numbers.
        settle: Steps before the recorded ones. Default: enough for the slowest direction.
    """
    rng = np.random.default_rng(seed)
    curvature = np.geomspace(1.0, 1 / 30, PARAMETERS)
    spread = np.sqrt(curvature / BATCH)  # of ĝ in every direction
    # Under AdamW P is about one over the root of E ĝ², so that η = size keeps η P h near size.
    rate = size * float(np.sqrt((spread**2).mean())) if rule.adaptive else size
    decay = rule.momentum.decay
    if settle is None:
        settle = math.ceil(3 * (1 - (0 if rule.adaptive else decay)) / (size * curvature[-1])) + 100
    place = rng.normal(size=(runs, PARAMETERS)) * spread * np.sqrt(size / curvature / 2)
    buffer, second = np.zeros_like(place), np.full_like(place, float((spread**2).mean()))
    last = level_from = None
    kept: dict[str, list[np.ndarray]] = {
        name: [] for name in Walk.__dataclass_fields__ if name != "rate"
    }
    for step in range(settle + steps):
        gradient = curvature * place
        noise = rng.normal(size=place.shape) * spread
        batch = gradient + noise
        weights = 1 / (np.sqrt(second) + EPSILON) if rule.adaptive else np.ones_like(place)
        if step >= settle:
            kept["product"].append((last * batch).sum(1))
            kept["norm_squared"].append((batch * weights * batch).sum(1))
            kept["memory"].append(((1 - decay) * buffer * weights * batch).sum(1))
            kept["level"].append((last * curvature * (place - level_from)).sum(1))
            kept["truth"].append((gradient * weights * gradient).sum(1))
            kept["variance"].append(BATCH * (spread**2 * weights).sum(1))
            own = np.sqrt(PARAMETERS / 2 / BATCH) * rng.normal(size=runs)
            kept["loss"].append((curvature * place**2).sum(1) / 2 + (noise * place).sum(1) + own)
        last, level_from = weights * batch, place
        buffer = decay * buffer + batch
        if rule.adaptive:
            second = BETA2 * second + (1 - BETA2) * batch**2
            place = place - rate * (1 - decay) * buffer / (np.sqrt(second) + EPSILON)
        elif rule.momentum.nesterov:
            place = place - rate * (batch + decay * buffer)
        else:
            place = place - rate * buffer
    return Walk(
        **{name: np.stack(columns, axis=1) for name, columns in kept.items()},
        rate=rate * (1 - decay) if rule.adaptive else rate,
    )


READINGS = 60
"""Readings that the steps of a run are averaged into."""


def readings_of(seen: Walk, run: int, rule: Rule) -> tuple[Signal, np.ndarray]:
    """‖g‖² of one run as readings, and ‖ĝ‖² at the same readings."""

    def read(columns: Runs) -> np.ndarray:
        return columns[run].reshape(READINGS, -1).mean(axis=1)

    travelled = seen.rate * np.arange(1, seen.product.shape[1] + 1)
    norm_squared = read(seen.norm_squared)
    found = signal(
        read(seen.product),
        norm_squared,
        momentum=rule.momentum,
        memory=read(seen.memory) if rule.momentum.decay else None,
        loss=None if rule.adaptive else read(seen.loss),
        travelled=None if rule.adaptive else travelled.reshape(READINGS, -1).mean(axis=1),
    )
    return found, norm_squared


def reshuffled(
    momentum: float, size: float, *, examples: int, batch: int, runs: int, seed: int
) -> dict[str, np.ndarray]:
    """Means over the steps, [runs], at stationarity in one dimension with epochs in random order.

    Args:
        momentum: μ of the heavy ball.
        size: η h.
        examples: N.
        batch: B.
        runs: Number of runs, each with examples of its own.
        seed: Seed of the random numbers.
    """
    rng = np.random.default_rng(seed)
    drawn = rng.normal(size=(runs, examples))
    drawn -= drawn.mean(axis=1, keepdims=True)
    drawn /= drawn.std(axis=1, keepdims=True)
    steps = examples // batch
    slowest = math.ceil((1 - momentum) / size / steps)
    settle, epochs = 4 * slowest + 3, max(20 * slowest, 20)
    place, buffer, last, before = np.zeros(runs), np.zeros(runs), np.zeros(runs), np.zeros(runs)
    sums = {
        name: np.zeros(runs) for name in ("product", "norm_squared", "memory", "level", "truth")
    }
    for epoch in range(settle + epochs):
        order = np.argsort(rng.random((runs, examples)), axis=1)[:, : steps * batch]
        batches = np.take_along_axis(drawn, order, axis=1).reshape(runs, steps, batch).mean(axis=2)
        for mean in batches.T:
            gradient = place - mean
            if epoch >= settle:
                sums["truth"] += place**2
                sums["norm_squared"] += gradient**2
                sums["product"] += last * gradient
                sums["memory"] += (1 - momentum) * buffer * gradient
                sums["level"] += last * (place - before)
            last, before = gradient, place
            buffer = momentum * buffer + gradient
            place = place - size * buffer
    return {name: total / (epochs * steps) for name, total in sums.items()}
