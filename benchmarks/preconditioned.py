"""Does the preconditioned noise scale predict the critical batch under Adam? Predicted, then branched with tuned rates.

    .venv/bin/python benchmarks/preconditioned.py  # all conditions, half a minute of processor time each
    .venv/bin/python benchmarks/preconditioned.py --condition early --out part.json

A condition is a small network that trains on digits at B = 64 and a constant rate. Over its last 100 steps
every step is measured, and both noise scales are predicted, before anything is branched. From that state branches with
every batch, horizon (in examples) and rate are trained, each with the rate falling linearly to zero, in three
replicates. The loss at the best rate, as a function of the batch B and the horizon D, is fitted by
a + c (D/(1 + B/B_c))^-p, so that B_c is the batch that needs twice the examples of the smallest one. Its interval is
a bootstrap over replicates. The branches of all rates and replicates with one batch and horizon run together.
"""

import argparse
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.optimize import least_squares
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from gradiometer.estimation import GradientNoise, PreconditionedNoise
from gradiometer.measurement import (
    Draw,
    Objective,
    Reading,
    Sampling,
    Series,
    TrainingStep,
    preconditioner_of,
    supervised,
)
from gradiometer.problems import load

BATCH, WINDOW = 64, 100
BATCHES, HORIZONS = (8, 32, 128, 512), (2048, 4096, 8192, 16384)
RATES, REPLICATES = (0.006, 0.012, 0.024, 0.048, 0.096, 0.192), 3
"""Rates of the branches with B = 64, in proportion to √B for others, and replicates of each."""
FEWEST_STEPS = 16
RESAMPLED = 30
BETAS, DECAY = (0.9, 0.95), 0.1

Batch = tuple[Tensor, Tensor]
CROSS_ENTROPY = supervised(nn.CrossEntropyLoss(reduction="none"))


class Digits:
    """The images of digits, drawn with replacement; the loss that counts is that of all of them."""

    def __init__(self) -> None:
        train = load("digits").train
        self.inputs, self.labels = train.batch(torch.arange(len(train)))
        self.inputs = self.inputs.flatten(1)

    def draw(self, size: int, generator: torch.Generator) -> Batch:
        """A batch of independent draws."""
        chosen = torch.randint(len(self.inputs), (size,), generator=generator)
        return self.inputs[chosen], self.labels[chosen]


@dataclass(frozen=True)
class Condition:
    """A network of one hidden layer, its optimizer, and the step that the branches begin at."""

    rate: float
    steps: int
    width: int = 32
    adam: bool = True

    def model(self) -> nn.Module:
        """The network before training."""
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(64, self.width), nn.ReLU(), nn.Linear(self.width, 10))


CONDITIONS = {
    "early": Condition(3e-3, 110),
    "middle": Condition(3e-3, 200),
    "late": Condition(3e-3, 400),
    "slow": Condition(1e-3, 500),
    "wide": Condition(2e-3, 150, width=256),
    "rmsprop": Condition(1e-3, 200, adam=False),
}


@dataclass
class State:
    """Parameters of a model, and the first and second moments of its optimizer."""

    parameters: dict[str, Tensor]
    first: dict[str, Tensor]
    second: dict[str, Tensor]
    steps: int


def trained(condition: Condition) -> tuple[nn.Module, State, dict[str, list[float]]]:
    """The state at which the branches begin, and what is predicted there, with 90 % intervals."""
    data, model, generator = Digits(), condition.model(), torch.Generator().manual_seed(3)
    made = {"betas": BETAS, "weight_decay": DECAY} if condition.adam else {"alpha": BETAS[1]}
    optimizer = (torch.optim.AdamW if condition.adam else torch.optim.RMSprop)(
        model.parameters(), lr=condition.rate, **made
    )
    objective, sampling = Objective(model, CROSS_ENTROPY), Sampling(Draw.FRESH)
    gauges = (GradientNoise(), PreconditionedNoise())
    readings: dict[str, list[Reading]] = {gauge.name: [] for gauge in gauges}
    for index in range(condition.steps):
        batch = data.draw(BATCH, generator)
        optimizer.zero_grad()
        CROSS_ENTROPY(model, batch).mean().backward()
        if index >= condition.steps - WINDOW:
            step = TrainingStep(
                objective, batch, index=index, learning_rate=condition.rate, sampling=sampling,
                gradient=[p.grad for p in model.parameters()],
                preconditioner=preconditioner_of(optimizer, list(model.parameters())),
            )  # fmt: skip
            for gauge in gauges:
                readings[gauge.name].append(
                    Reading(gauge.name, index, BATCH, condition.rate, gauge.measure(step) or {})
                )
        optimizer.step()
    predicted = {}
    for gauge, name in zip(gauges, ("noise_scale", "preconditioned_noise_scale"), strict=True):
        estimate = gauge.estimate(Series.of(readings[gauge.name], sampling))[name]
        predicted[name] = [estimate.value, estimate.low, estimate.high]
    named = dict(model.named_parameters())
    moments = [
        {name: optimizer.state[p].get(key, torch.zeros_like(p)).clone() for name, p in named.items()}
        for key in ("exp_avg", "exp_avg_sq" if condition.adam else "square_avg")
    ]
    return model, State({name: p.detach().clone() for name, p in named.items()}, *moments, condition.steps), predicted


def branched(condition: Condition, model: nn.Module, start: State, batch_size: int, horizon: int) -> np.ndarray:
    """Loss on common examples at the end of every branch, shape [rates, replicates]."""
    data, members = Digits(), len(RATES) * REPLICATES
    rates = torch.tensor(RATES).repeat_interleave(REPLICATES) * math.sqrt(batch_size / BATCH)
    state = State(
        *(
            {name: tensor.expand(members, *tensor.shape).clone() for name, tensor in tensors.items()}
            for tensors in (start.parameters, start.first, start.second)
        ),
        start.steps,
    )

    def loss(parameters: dict[str, Tensor], batch: Batch) -> Tensor:
        return nn.functional.cross_entropy(functional_call(model, parameters, (batch[0],)), batch[1])

    gradients = vmap(grad(loss))
    generators = [torch.Generator().manual_seed(100 + replicate) for replicate in range(REPLICATES)]
    steps = horizon // batch_size
    for step in range(steps):
        draws = [data.draw(batch_size, generator) for generator in generators]
        batch = tuple(torch.stack([draw[part] for draw in draws]).repeat(len(RATES), *[1] * draws[0][part].dim())
                      for part in range(2))  # fmt: skip
        with torch.no_grad():
            update(state, gradients(state.parameters, batch), rates * (1 - step / steps), adam=condition.adam)
    with torch.no_grad():
        losses = vmap(loss, in_dims=(0, None))(state.parameters, (data.inputs, data.labels))
    return losses.view(len(RATES), REPLICATES).numpy()


def update(state: State, gradient: dict[str, Tensor], rates: Tensor, *, adam: bool) -> None:
    """One step of AdamW or RMSprop of every member."""
    state.steps += 1
    correction = [1 - beta**state.steps for beta in BETAS] if adam else [1.0, 1.0]
    for name, g in gradient.items():
        rate = rates.view(-1, *[1] * (g.dim() - 1))
        state.second[name].mul_(BETAS[1]).addcmul_(g, g, value=1 - BETAS[1])
        divisor = (state.second[name] / correction[1]).sqrt_().add_(1e-8)
        direction = g
        if adam:
            direction = state.first[name].lerp_(g, 1 - BETAS[0]) / correction[0]
            state.parameters[name].mul_(1 - rate * DECAY)
        state.parameters[name].sub_(rate * direction / divisor)


def critical(losses: dict[tuple[int, int], np.ndarray], chosen: np.ndarray) -> float:
    """B_c of the fit to the losses at the best rate, as means over these replicates."""
    batches, horizons = np.array(list(losses)).T
    best = np.array([each[:, chosen].mean(1).min() for each in losses.values()])

    def misses(logs: np.ndarray) -> np.ndarray:
        floor, scale, power, log_critical = logs
        enough = horizons / (1 + batches / np.exp(log_critical)) / 1e4
        return (floor + np.exp(scale) * enough ** -np.exp(power) - best) / (best.max() - best.min())

    starts = [least_squares(misses, [best.min() - 0.01, -3.0, -0.7, log], loss="soft_l1", f_scale=0.05)
              for log in (2.0, 4.0, 6.0)]  # fmt: skip
    return float(np.exp(min(starts, key=lambda fit: fit.cost).x[3]))


def study(name: str) -> dict[str, object]:
    """One condition: predicted, then branched."""
    condition, begun = CONDITIONS[name], time.process_time()
    model, start, predicted = trained(condition)
    said = [f"{key} {value:.0f} [{low:.0f}, {high:.0f}]" for key, (value, low, high) in predicted.items()]
    print(f"{name}: predicted {', '.join(said)}", flush=True)
    losses = {
        (batch_size, horizon): branched(condition, model, start, batch_size, horizon)
        for batch_size in BATCHES
        for horizon in HORIZONS
        if horizon // batch_size >= FEWEST_STEPS
    }
    draws = np.random.default_rng(0).integers(REPLICATES, size=(RESAMPLED, REPLICATES))
    value = critical(losses, np.arange(REPLICATES))
    low, high = np.quantile([critical(losses, draw) for draw in draws], (0.05, 0.95))
    at_the_end = sum(int(each.mean(1).argmin()) in (0, len(RATES) - 1) for each in losses.values())
    print(
        f"{name}: branched {value:.0f} [{low:.0f}, {high:.0f}]; the best rate is at an end of the grid in {at_the_end} "
        f"of {len(losses)}; {time.process_time() - begun:.0f} s of processor time",
        flush=True,
    )
    return {
        "predicted": predicted,
        "branched": [value, low, high],
        "losses": {f"{batch_size}/{horizon}": each.tolist() for (batch_size, horizon), each in losses.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--condition", action="append", choices=CONDITIONS)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found = {name: study(name) for name in arguments.condition or CONDITIONS}
    if arguments.out:
        arguments.out.write_text(json.dumps(found))
    for scale in ("noise_scale", "preconditioned_noise_scale"):
        ratios = np.array([each["predicted"][scale][0] / each["branched"][0] for each in found.values()])
        within = int((np.abs(np.log(ratios)) <= math.log(2)).sum())
        print(f"{scale}: predicted/branched {', '.join(f'{ratio:.2f}' for ratio in ratios)}; geometric mean "
              f"{np.exp(np.log(ratios).mean()):.2f}; within a factor of 2 in {within} of {len(ratios)}")  # fmt: skip


if __name__ == "__main__":
    main()
