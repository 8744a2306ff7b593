"""S7: the classical convergence theorem."""

from dataclasses import dataclass
from functools import cache, partial

import numpy as np
import torch
from jaxtyping import Float
from torch import nn

from gradiometer.convergence.schedules.shapes import InversePower
from gradiometer.convergence.theorem.theorem import read, theorem
from gradiometer.drift.curvature import Curvature
from gradiometer.lecture.experiment import Experiment, Setting, averaged
from gradiometer.lecture.network import digits_network, spaced_steps
from gradiometer.lecture.statement import Statement
from gradiometer.measurement.estimate import Estimate
from gradiometer.measurement.gradient_graph import flat
from gradiometer.measurement.objective import Objective
from gradiometer.problems.closed_forms.one_dimensional import OneDimensional
from gradiometer.problems.closed_forms.quadratic import Quadratic

CURVATURE, NOISE, BATCH = np.array([0.5, 1.0, 2.0]), np.array([1.0, 4.0, 2.0]), 4
START = np.array([2.0, -1.0, 1.0])
ADMITTED = InversePower(0.5, time_constant=10.0)
"""η_t = 0.5/(1 + t/10): the theorem's three conditions hold."""
CHAINS = 2000
TIMES = spaced_steps(2000, 7)

NETWORK_RATE = InversePower(0.3, time_constant=100.0)
NETWORK_TIMES, NETWORK_BATCH, LOOKS = (100, 400, 1600), 32, 60
EXAMPLE = OneDimensional(variance=4.0)
STALLS, ROOT = "1/(t + 1)**2", "0.5/sqrt(t)"


def _squared_gradients() -> Float[np.ndarray, " times"]:
    """E‖g(Φ_t)‖² on the quadratic, exactly: its axes are its modes, and each is a recursion of two numbers."""
    means, variance, found = START.copy(), np.zeros(3), [float((CURVATURE**2 * START**2).sum())]
    for step in range(TIMES[-1]):
        rate = ADMITTED(step)
        means = (1 - rate * CURVATURE) * means
        variance = (1 - rate * CURVATURE) ** 2 * variance + rate**2 * NOISE / BATCH
        found.append(float((CURVATURE**2 * (means**2 + variance)).sum()))
    return np.array(found)


@cache
def _measured_squared_gradients() -> Float[np.ndarray, "times chains"]:
    rates, quadratic = [ADMITTED(step) for step in range(TIMES[-1])], Quadratic(CURVATURE, NOISE)
    chains = quadratic.simulate(rates, chains=CHAINS, batch_size=BATCH, start=START, seed=7)[list(TIMES)]
    squares: np.ndarray = ((chains * CURVATURE) ** 2).sum(axis=2)
    return squares


@dataclass(frozen=True)
class Trained:
    """The quantities in the theorem's proof, from a run of a real network.

    Args:
        first_loss: L of the training set at the start.
        step_sizes: η_t.
        squares: ‖ĝ_t‖² of every step.
        looks: Steps at which the full gradient was computed.
        gradients: ‖∇L‖² at these.
        sharpness: The largest λ_max of six looks.
    """

    first_loss: float
    step_sizes: Float[np.ndarray, " steps"]
    squares: Float[np.ndarray, " steps"]
    looks: tuple[int, ...]
    gradients: Float[np.ndarray, " looks"]
    sharpness: float

    def bound(self, steps: int) -> Estimate:
        """(L_0 + ½ λ Σ η²‖ĝ‖²)/Σ η, above the η-weighted mean of ‖∇L‖² by the descent lemma (L ≥ 0)."""
        rates = self.step_sizes[:steps]
        noise = 0.5 * self.sharpness * float((rates**2 * self.squares[:steps]).sum())
        bound = (self.first_loss + noise) / float(rates.sum())
        return Estimate.bound(bound, low=0.0, high=bound, method="descent lemma", samples=steps)

    def weighted(self, steps: int) -> float:
        """The η-weighted mean of ‖∇L‖², from the looks, each for the steps around it."""
        ends = np.searchsorted(self.looks, steps)
        looks = np.array(self.looks[:ends])
        shares = np.array([part.sum() for part in np.split(self.step_sizes[:steps], (looks[1:] + looks[:-1] + 1) // 2)])
        return float((shares * self.gradients[:ends]).sum() / shares.sum())


@cache
def _trained() -> Trained:
    """A tanh network (the theorem needs a smooth loss) on the digits, from its start."""
    network = digits_network()
    torch.manual_seed(1)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10))
    objective = Objective(model, network.objective.loss)
    optimizer = torch.optim.SGD(model.parameters(), lr=NETWORK_RATE(0))
    scheduler = NETWORK_RATE.scheduler(optimizer)
    looks = sorted({0, *spaced_steps(NETWORK_TIMES[-1], LOOKS)})
    squares, rates, gradients, sharpness, first_loss = [], [], [], [], 0.0
    for step, chosen in enumerate(network.batches(NETWORK_BATCH, NETWORK_TIMES[-1], seed=8)):
        if step in looks:
            gradients.append(float(flat(objective.gradient(network.everything)).double().square().sum()))
        if step in looks[::12]:
            curvature = Curvature.of(objective, network.everything, at_once=len(network.train))
            sharpness.append(curvature.eigenvalues().sharpness.high)
            first_loss = first_loss or curvature.loss
        optimizer.zero_grad()
        objective.loss(model, network.train.batch(chosen)).mean().backward()
        squares.append(sum(float(p.grad.square().sum()) for p in model.parameters() if p.grad is not None))
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return Trained(first_loss, np.array(rates), np.array(squares), tuple(looks), np.array(gradients), max(sharpness))


def _rates(formula: str, steps: int) -> Float[np.ndarray, " steps"]:
    return np.array([read(formula)(step) for step in range(steps)])


def _chains(formula: str, steps: int, start: float, seed: int) -> Float[np.ndarray, "times chains"]:
    return EXAMPLE.simulate(_rates(formula, steps), chains=CHAINS, batch_size=BATCH, start=start, seed=seed)


def _experiments() -> tuple[Experiment, ...]:
    exact = _squared_gradients()
    fails = partial(Experiment, setting=Setting.FAILS, dial="step, t")
    root = EXAMPLE.law(_rates(ROOT, TIMES[-1]), BATCH)[1]
    return (
        Experiment(
            name="quadratic",
            setting=Setting.KNOWN,
            where="a noisy quadratic of three parameters at η_t = 0.5/(1 + t/10)",
            quantity="E‖∇L(Φ_t)‖²",
            dial="step, t",
            points=TIMES,
            predict=lambda time: exact[time],
            measure=lambda time: averaged(_measured_squared_gradients()[TIMES.index(time)]),
            says=f"{theorem(ADMITTED).why} So the gradient goes to zero, here as fast as the exact recursion says.",
        ),
        Experiment(
            name="digits",
            setting=Setting.REAL,
            where="a tanh network, 64-32-10, on the digits at η_t = 0.3/(1 + t/100)",
            quantity="‖∇L_Train‖², mean weighted by η_t",
            dial="steps",
            points=NETWORK_TIMES,
            predict=lambda steps: _trained().bound(steps),
            measure=lambda steps: _trained().weighted(steps),
            says="At most (L_0 + ½ λ Σ η²‖ĝ‖²)/Σ η, from the theorem's own proof, with λ the largest sharpness found. "
            "Σ η grows without end and Σ η² does not, so the bound goes to zero.",
        ),
        fails(
            name="stalls",
            where="the one-dimensional example at η_t = 1/(t + 1)², from β = 1",
            quantity="mean distance from the minimum",
            points=(10, 100, 1000),
            predict=lambda time: (time + 2) / (2 * (time + 1)),
            measure=lambda time: averaged(_chains(STALLS, 1000, 1.0, 9)[time]),
            claim=lambda _: 0.0,
            says=f"{theorem(STALLS).why} Half of the way always remains.",
            log=False,
        ),
        fails(
            name="not_necessary",
            where="the one-dimensional example at η_t = 0.5/√t",
            quantity="variance of β",
            points=TIMES,
            predict=lambda time: root[time],
            measure=lambda time: averaged(_chains(ROOT, TIMES[-1], 0.0, 11)[time] ** 2),
            says=f"{theorem(ROOT).why} But it converges all the same: the conditions are sufficient, not necessary.",
        ),
    )


S7 = Statement(
    name="S7",
    title="The convergence theorem",
    claim="If η_t goes to zero, its sum is infinite and the sum of its squares is finite, the training loss converges "
    "and its gradient goes to zero.",
    experiments=_experiments,
    limits="The loss must be smooth and bounded below, and its noise must grow no faster than the gradient. The "
    "theorem says nothing about a finite run, for which 1/t has the worst bound of the usual shapes. Its conditions "
    "are sufficient, not necessary.",
)
