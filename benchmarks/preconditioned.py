"""Does the preconditioned noise scale predict the critical batch under Adam? Predicted, then branched with tuned rates.

    .venv/bin/python benchmarks/preconditioned.py  # all conditions, half a minute of processor time each
    .venv/bin/python benchmarks/preconditioned.py --condition early
    .venv/bin/python benchmarks/preconditioned.py --predict  # only the predictions

A condition is a small network that trains on digits at B = 64 and a constant rate. Over its last 100 steps
every step is measured, and both noise scales are predicted, before anything is branched. From that state branches with
several batches and horizons (in examples) are trained, each with the rate falling linearly to zero, in four
replicates. Every batch has a search of its own for the best rate at every horizon. The critical batch is fitted to the
losses at the best rates by `gradiometer.forks.critical_batch_by`. The branches of all rates and replicates with one
batch and horizon run together.
"""

import argparse
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from gradiometer.estimation import GradientNoise, PreconditionedNoise
from gradiometer.forks import BatchSize, Branch, BranchResult, CriticalBatch, Readout, critical_batch_by
from gradiometer.jobs import Job, pool_of
from gradiometer.measurement import (
    Draw,
    Estimate,
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
FACTORS, HORIZONS, REPLICATES = (1 / 8, 1 / 2, 2, 8), (2048, 4096, 8192, 16384), 4
"""Batches as multiples of `BATCH`, horizons in examples, and replicates of each branch."""
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
    """A network of a few hidden layers, its optimizer, and the step that the branches begin at."""

    rate: float
    steps: int
    width: int = 32
    adam: bool = True
    layers: int = 1
    kind: type[nn.Module] = nn.ReLU

    def model(self) -> nn.Module:
        """The network before training."""
        torch.manual_seed(0)
        widths = [64, *[self.width] * self.layers]
        hidden = [layer for a, b in pairwise(widths) for layer in (nn.Linear(a, b), self.kind())]
        return nn.Sequential(*hidden, nn.Linear(self.width, 10))


CONDITIONS = {
    "early": Condition(3e-3, 110),
    "middle": Condition(3e-3, 200),
    "late": Condition(3e-3, 400),
    "slow": Condition(1e-3, 500),
    "wide": Condition(2e-3, 150, width=256),
    "rmsprop": Condition(1e-3, 200, adam=False),
    "deep": Condition(2e-3, 150, width=48, layers=2),
    "tanh": Condition(4e-3, 120, width=96, kind=nn.Tanh),
}
"""The last two were predicted, and the predictions committed, before they were branched for the first time."""


@dataclass
class State:
    """Parameters of a model, and the first and second moments of its optimizer."""

    parameters: dict[str, Tensor]
    first: dict[str, Tensor]
    second: dict[str, Tensor]
    steps: int


def trained(condition: Condition) -> tuple[nn.Module, State, dict[str, Estimate]]:
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
        predicted[name] = gauge.estimate(Series.of(readings[gauge.name], sampling))[name]
    named = dict(model.named_parameters())
    moments = [
        {name: optimizer.state[p].get(key, torch.zeros_like(p)).clone() for name, p in named.items()}
        for key in ("exp_avg", "exp_avg_sq" if condition.adam else "square_avg")
    ]
    return model, State({name: p.detach().clone() for name, p in named.items()}, *moments, condition.steps), predicted


def branched(
    condition: Condition, model: nn.Module, start: State, batch_size: int, horizon: int, factors: Sequence[float]
) -> np.ndarray:
    """Loss on common examples at the end of every branch, shape [rates, replicates]."""
    data, members = Digits(), len(factors) * REPLICATES
    rates = torch.tensor(factors, dtype=torch.float32).repeat_interleave(REPLICATES) * condition.rate
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
        batch = tuple(torch.stack([draw[part] for draw in draws]).repeat(len(factors), *[1] * draws[0][part].dim())
                      for part in range(2))  # fmt: skip
        with torch.no_grad():
            update(state, gradients(state.parameters, batch), rates * (1 - step / steps), adam=condition.adam)
    with torch.no_grad():
        losses = vmap(loss, in_dims=(0, None))(state.parameters, (data.inputs, data.labels))
    return losses.view(len(factors), REPLICATES).numpy()


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


def in_words(name: str, predicted: Mapping[str, Estimate]) -> str:
    """What is predicted for a condition."""
    return f"{name}: predicted {', '.join(f'{key} {scale}' for key, scale in predicted.items())}"


def study(name: str) -> CriticalBatch:
    """One condition: predicted, then branched, with the preconditioned scale as the forecast."""
    condition, begun = CONDITIONS[name], time.process_time()
    model, start, predicted = trained(condition)
    print(in_words(name, predicted), flush=True)

    def grow(branches: Sequence[Branch]) -> Iterator[BranchResult]:
        groups: dict[tuple[float, int], list[BatchSize]] = {}
        for branch in branches:
            if branch.replicate == 0:
                groups.setdefault((branch.alternative.factor, branch.horizon), []).append(branch.alternative)
        for (factor, horizon), kinds in groups.items():
            size = round(factor * BATCH)
            losses = branched(condition, model, start, size, horizon, [kind.rate_factor for kind in kinds])
            for kind, row in zip(kinds, losses, strict=True):
                for replicate, loss in enumerate(row.tolist()):
                    finite = {"train_loss": Readout(loss)} if math.isfinite(loss) else {}
                    yield BranchResult(kind.name, replicate, horizon, horizon // size, horizon, 0.0, (), finite)

    found = critical_batch_by(
        grow, BATCH, HORIZONS, factors=FACTORS, replicates=REPLICATES, forecast=predicted["preconditioned_noise_scale"]
    )
    open_ended = sum(not cell.is_bracketed for cell in found.cells)
    print(
        f"{name}: branched {found.estimate}, {len(found.results)} branches, {open_ended} of {len(found.cells)} cells "
        f"without the best rate between two others; preconditioned over branched {found.ratio}: {found.held}; plain "
        f"over branched {predicted['noise_scale'].value / found.estimate.value:.2f}; "
        f"{time.process_time() - begun:.0f} s of processor time",
        flush=True,
    )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--condition", action="append", choices=CONDITIONS)
    parser.add_argument("--predict", action="store_true", help="print the predictions, and branch nothing")
    parser.add_argument("--pool", default="here", help="here, processes[:COUNT] or ray[:ADDRESS]")
    arguments = parser.parse_args()
    names = arguments.condition or list(CONDITIONS)
    if arguments.predict:
        print("\n".join(in_words(name, trained(CONDITIONS[name])[2]) for name in names))
        return
    with pool_of(arguments.pool) as pool:
        found = dict(zip(names, pool.results([Job(name, study, (name,)) for name in names]), strict=True))
    ratios = np.array([each.forecast.value / each.estimate.value for each in found.values()])
    within = int((np.abs(np.log(ratios)) <= math.log(2)).sum())
    print(
        f"preconditioned/branched {', '.join(f'{ratio:.2f}' for ratio in ratios)}; geometric mean "
        f"{np.exp(np.log(ratios).mean()):.2f}; within a factor of 2 in {within} of {len(ratios)}"
    )


if __name__ == "__main__":
    main()
