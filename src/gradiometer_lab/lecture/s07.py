"""S7: the classical convergence theorem."""

import math
from dataclasses import dataclass
from functools import cache, partial

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.special import ndtri
from torch import nn

from gradiometer.convergence.schedules.shapes import InversePower
from gradiometer.convergence.theorem.theorem import read, theorem
from gradiometer.drift.curvature import Curvature
from gradiometer.measurement import Estimate, Objective
from gradiometer.measurement.gradient_graph import flat
from gradiometer_lab.closed_forms import OneDimensional, Quadratic
from gradiometer_lab.lecture.network import digits_network
from gradiometer_lab.lecture.statement import (
    LEVEL,
    Circumstance,
    Experiment,
    Rival,
    Statement,
    mean_estimate,
    settings,
)

NUMBERS = settings("S7")
CURVATURE = np.array(NUMBERS.curvature)
START = np.array(NUMBERS.start)
EXAMPLE = OneDimensional(variance=NUMBERS.variance)

# η_t = 0.5/(1 + t/10): the theorem's three conditions hold.
ADMITTED = InversePower(0.5, time_constant=10.0)
NETWORK_RATE = InversePower(0.3, time_constant=100.0)


@cache
def _squared_gradients() -> Float[np.ndarray, " times"]:
    """E‖g(Φ_t)‖² on the quadratic, exactly: its axes are its modes, and each is a recursion of two
    numbers."""
    means, variance, found = START.copy(), np.zeros(3), [float((CURVATURE**2 * START**2).sum())]
    for step in range(NUMBERS.times[-1]):
        rate = ADMITTED(step)
        means = (1 - rate * CURVATURE) * means
        variance = (1 - rate * CURVATURE) ** 2 * variance + rate**2 * np.array(
            NUMBERS.noise
        ) / NUMBERS.batch
        found.append(float((CURVATURE**2 * (means**2 + variance)).sum()))
    return np.array(found)


@cache
def _measured_squared_gradients() -> Float[np.ndarray, "times chains"]:
    rates, quadratic = (
        [ADMITTED(step) for step in range(NUMBERS.times[-1])],
        Quadratic(CURVATURE, NUMBERS.noise),
    )
    chains = quadratic.simulate(
        rates, chains=NUMBERS.chains, batch_size=NUMBERS.batch, start=START, seed=7
    )[list(NUMBERS.times)]
    return np.asarray(((chains * CURVATURE) ** 2).sum(axis=2))


@dataclass(frozen=True)
class Trained:
    """The quantities in the theorem's proof, from a run of a real network.

    Args:
        losses: L of the training set before every step, and after the last.
        rates: η_t.
        gradients: ‖∇L‖² before every step.
        luck: ⟨ĝ_t − ∇L, ∇L⟩, how far the batch's gradient was along the full one beyond its mean.
        curvatures: ĝᵀHĝ at some of the steps.
        looks: These steps.
    """

    losses: Float[np.ndarray, " ends"]
    rates: Float[np.ndarray, " steps"]
    gradients: Float[np.ndarray, " steps"]
    luck: Float[np.ndarray, " steps"]
    curvatures: Float[np.ndarray, " looks"]
    looks: Int[np.ndarray, " looks"]

    def balance(self, steps: int) -> Estimate:
        """(L_0 − L_t + ½ Σ η² ĝᵀHĝ)/Σ η: the descent lemma with its own curvature, to second order
        in η.

        Left out are the martingale Σ η⟨ĝ − ∇L, ∇L⟩, of which the variance is known, and the steps
        between looks.
        """
        rates, looks = self.rates[:steps], self.looks[self.looks < steps]
        each = 0.5 * self.rates[looks] ** 2 * self.curvatures[: len(looks)]
        lengths = np.diff([*looks, steps])
        # Half the squared difference of neighbours is the variance of what lies between them.
        between = np.diff(each) ** 2 / 2 * (lengths[1:] ** 2) * (lengths[1:] > 1)
        variance = float(np.square(rates * self.luck[:steps]).sum() + between.sum())
        value = float(self.losses[0] - self.losses[steps] + (lengths * each).sum())
        margin = float(ndtri((1 + LEVEL) / 2)) * math.sqrt(variance)
        low, middle, high = ((value + away) / float(rates.sum()) for away in (-margin, 0, margin))
        return Estimate.interval(
            middle, low, high, level=LEVEL, method="descent lemma", samples=len(looks)
        )

    def without_noise(self, steps: int) -> float:
        """The same for a small rate without noise: (L_0 − L_t)/Σ η."""
        return float((self.losses[0] - self.losses[steps]) / self.rates[:steps].sum())

    def weighted_mean(self, steps: int) -> float:
        """The η-weighted mean of ‖∇L‖²."""
        return float(np.average(self.gradients[:steps], weights=self.rates[:steps]))


@cache
def training(seed: int = 1, hidden: int = 32) -> Trained:
    """A tanh network (the theorem needs a smooth loss) on the digits, from its start."""
    network, last = digits_network(), NUMBERS.network_times[-1]
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, hidden), nn.Tanh(), nn.Linear(hidden, 10))
    objective = Objective(model, network.objective.loss)
    optimizer = torch.optim.SGD(model.parameters(), lr=NETWORK_RATE(0))
    scheduler = NETWORK_RATE.scheduler(optimizer)
    early = NUMBERS.early
    looks = np.array([*range(early), *range(early, last, NUMBERS.later_every)])
    found, curvatures = [], []
    for step, chosen in enumerate(network.batches(NUMBERS.network_batch, last, seed=7 + seed)):
        # One graph of all examples: a step takes one product at most.
        full = Curvature.of(objective, network.everything, at_once=len(network.train))
        optimizer.zero_grad()
        objective.loss(model, network.train.batch(chosen)).mean().backward()
        batch = flat(
            [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        )
        rate, squared = float(optimizer.param_groups[0]["lr"]), float(full.gradient.square().sum())
        found.append((full.loss, rate, squared, float(batch @ full.gradient) - squared))
        if step in looks:
            curvatures.append(full.along(batch))
        optimizer.step()
        scheduler.step()
    losses, rates, gradients, luck = np.array(found).T
    ended = float(objective.loss(model, network.everything).detach().mean())
    return Trained(np.append(losses, ended), rates, gradients, luck, np.array(curvatures), looks)


def _rates(formula: str, steps: int) -> Float[np.ndarray, " steps"]:
    return np.array([read(formula)(step) for step in range(steps)])


def _chains(formula: str, steps: int, start: float, seed: int) -> Float[np.ndarray, "times chains"]:
    return EXAMPLE.simulate(
        _rates(formula, steps),
        chains=NUMBERS.chains,
        batch_size=NUMBERS.batch,
        start=start,
        seed=seed,
    )


ROOT = EXAMPLE.law(_rates(NUMBERS.root, NUMBERS.times[-1]), NUMBERS.batch)[1]

fails = partial(Experiment, setting=Circumstance.FAILS, dial="step, t")


S7 = Statement(
    name="S7",
    title="The convergence theorem",
    claim=(
        "If η_t goes to zero, its sum is infinite and the sum of its squares is finite, the "
        "training loss converges and its gradient goes to zero."
    ),
    experiments=(
        Experiment(
            name="quadratic",
            setting=Circumstance.KNOWN,
            where="a noisy quadratic of three parameters at η_t = 0.5/(1 + t/10)",
            quantity="E‖∇L(Φ_t)‖²",
            dial="step, t",
            points=NUMBERS.times,
            predict=lambda time: _squared_gradients()[time],
            measure=lambda time: mean_estimate(
                _measured_squared_gradients()[NUMBERS.times.index(time)]
            ),
            says=(
                f"{theorem(ADMITTED).why} So the gradient goes to zero, here as fast as the exact "
                "recursion says."
            ),
        ),
        Experiment(
            name="digits",
            setting=Circumstance.REAL,
            where="a tanh network, 64-32-10, on the digits at η_t = 0.3/(1 + t/100)",
            quantity="‖∇L_Train‖², mean weighted by η_t",
            dial="steps",
            points=NUMBERS.network_times,
            predict=lambda steps: training().balance(steps),
            measure=lambda steps: training().weighted_mean(steps),
            rival=Rival("no noise, (L_0 − L_t)/Σ η", lambda steps: training().without_noise(steps)),
            says=(
                "(L_0 − L_t + ½ Σ η² ĝᵀHĝ)/Σ η, from the theorem's own proof: the fall of the loss "
                "and the noise pay for the gradient. Σ η grows without end, and the rest does not, "
                "so the gradient goes to zero."
            ),
        ),
        fails(
            name="stalls",
            where="the one-dimensional example at η_t = 1/(t + 1)², from β = 1",
            quantity="mean distance from the minimum",
            points=NUMBERS.stall_times,
            predict=lambda time: (time + 2) / (2 * (time + 1)),
            measure=lambda time: mean_estimate(
                _chains(NUMBERS.stalls, NUMBERS.stall_times[-1], 1.0, 9)[time]
            ),
            claim=lambda _: 0.0,
            says=f"{theorem(NUMBERS.stalls).why} Half of the way always remains.",
            log=False,
        ),
        fails(
            name="not_necessary",
            where="the one-dimensional example at η_t = 0.5/√t",
            quantity="variance of β",
            points=NUMBERS.times,
            predict=lambda time: ROOT[time],
            measure=lambda time: mean_estimate(
                _chains(NUMBERS.root, NUMBERS.times[-1], 0.0, 11)[time] ** 2
            ),
            says=(
                f"{theorem(NUMBERS.root).why} But it converges all the same: the conditions are "
                "sufficient, not necessary."
            ),
        ),
    ),
    limits=(
        "The loss must be smooth and bounded below, and its noise must grow no faster than the "
        "gradient. The theorem says nothing about a finite run, for which 1/t has the worst bound "
        "of the usual shapes. Its conditions are sufficient, not necessary."
    ),
)
