"""A made-up record of a healthy training, to be spoiled by tests of triage."""

from dataclasses import replace
from typing import Any

import numpy as np

from gradiometer.verdict.claims import Claim
from gradiometer.verdict.triage.signs import Signs
from gradiometer.verdict.triage.triage import triage_of

STEPS = 400
LOOKS = np.arange(0, STEPS, 10)
GUESS = float(np.log(10))
FACTS: dict[str, Any] = {
    "tensors": ["0.weight", "0.bias", "2.weight"],
    "sizes": [100, 10, 100],
    "axes": [2, 1, 2],
    "layers": ["Linear", "Linear", "Linear"],
    "untrained": [],
    "dropout": 0.1,
}


def constant(value: float) -> np.ndarray:
    return np.full(len(LOOKS), float(value))


def tensors(*values: float) -> np.ndarray:
    return np.tile(np.array(values, dtype=float), (len(LOOKS), 1))


def in_turn() -> np.ndarray:
    """Gradients of three tensors, two of which have one at every second look each, as two experts
    in turn."""
    gradients = tensors(0.6, 0.5, 0.6245)
    gradients[::2, 0] = 0.0
    gradients[1::2, 1] = 0.0
    return gradients


def cosine_rates(peak: float = 0.1, steps: int = STEPS) -> np.ndarray:
    return peak * 0.5 * (1 + np.cos(np.pi * np.arange(steps) / steps))


def falling(end: float = 0.1, steps: int = STEPS) -> np.ndarray:
    """Losses in units of a guess, which end at this level."""
    noise = 1 + 0.02 * np.random.default_rng(0).standard_normal(steps)
    return GUESS * (end + (1 - end) * np.exp(-np.arange(steps) / 40)) * noise


def slow_start(end: float, steps: int = 60) -> np.ndarray:
    """Losses that stay at a guess for some steps before they fall to this level."""
    return np.concatenate([falling(1.0)[:steps], falling(end)[:-steps]])


def nearest(share: float) -> np.ndarray:
    """Four readings of the batch sharpness after the first step, the nearest to the edge at this
    share of it. The one of the first step is beyond it, as before weights have moved."""
    return np.array([[0.0, 9.0], [1.0, share / 3], [90.0, share], [200.0, share / 2]])


def healthy(**changes: Any) -> Signs:
    """A healthy classification, with some of its signs changed."""
    single = {
        "clipped": constant(1.0),
        "product": constant(0.2),
        "without_gradient": constant(0),
        "backwards": constant(1),
        "in_eval": constant(0),
        "sensitive": constant(2),
        "rows": constant(32),
        "input_std": constant(1.0),
        "input_mean": constant(0.1),
        "inputs_not_finite": constant(0),
        "output_std": constant(1.0),
        "classes": constant(9),
        "classes_expected": constant(9.6),
        "classes_seen": constant(10),
        "label_entropy": constant(GUESS),
        "as_cross_entropy": falling()[LOOKS],
        "as_twice": constant(2.2),
        "row_sum_off": constant(5.0),
        "output_min": constant(-3.0),
    }
    by_tensor = {
        "gradient": tensors(0.6, 0.5, 0.6245),
        "nonzero": tensors(100, 10, 100),
        "nonzero_at_start": tensors(100, 10, 100),
        "weights": tensors(3.0, 1.0, 3.0),
        "weights_at_start": tensors(2.5, 1.0, 2.5),
        "movement": tensors(0.0225, 0.01, 0.0225),
    }
    for name in [
        name
        for name in changes
        if name in single
        or name in ("root", "stale", "scale", "labels", "repeated_rows", "same_rows", "updates")
        or name in ("graph", "judge", "judged")
    ]:
        single[name] = changes.pop(name)
    for name in [name for name in changes if name in by_tensor or name.endswith("_rows")]:
        by_tensor[name] = changes.pop(name)
    facts = FACTS | changes.pop("facts", {})
    made = Signs(
        losses=falling(),
        looks=LOOKS,
        single=single,
        tensors=by_tensor,
        facts=facts,
        rates=cosine_rates(),
        momentum=0.9,
        optimizer="SGD",
        family="sgd",
        batch_size=32,
        examples=3200,
        evaluated=np.arange(40, 401, 40),
        test=np.linspace(2.0, 0.3, 10),
        train=np.linspace(2.0, 0.28, 10),
    )
    made = replace(made, **changes)
    single["as_cross_entropy"] = made.given
    return made


def claims(signs: Signs) -> set[Claim]:
    return {each.claim for each in triage_of(signs).claims}


def certain(signs: Signs) -> set[Claim]:
    return {each.claim for each in triage_of(signs).claims if each.is_certain}


def half_zero(share: float) -> np.ndarray:
    return tensors(100 * (1 - share), 10, 100)


def moved(by: float) -> np.ndarray:
    return tensors(3 * by, 0.01, 3 * by)


def striding(stride: float) -> np.ndarray:
    """The movement of two layers of usual width, with a momentum of 0.9, for a stride."""
    return moved(stride / (2 * np.sqrt(19)))


def reaching(reach: float) -> np.ndarray:
    """The movement of two layers of usual width, with a momentum of 0.9, for a reach."""
    return moved(reach / (STEPS * np.sqrt(19)))


def jumping(rise: float) -> np.ndarray:
    """Losses that rise twice, by so many guesses, and stay up for a while."""
    losses = falling()
    for step in (200, 300):
        losses[step : step + 5] += rise * GUESS
    return losses


def evaluations(values: list[float], train: float) -> dict[str, Any]:
    return {"test": np.array(values), "train": np.full(10, train)}
