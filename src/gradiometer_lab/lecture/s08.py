"""S8: the rigor police: runs that the convergence theorem allows, without a minimum
at their end."""

import math
from dataclasses import dataclass
from functools import cache, cached_property, partial

import numpy as np
import torch
from jaxtyping import Float
from scipy.optimize import nnls
from scipy.special import expit
from torch import nn

from gradiometer.measurement.estimate import Estimate
from gradiometer_lab.counterexamples import Arctangent, LogCosh, Saddle
from gradiometer_lab.lecture.network import digits_network
from gradiometer_lab.lecture.statement import (
    Circumstance,
    Experiment,
    Rival,
    Statement,
    mean_estimate,
    settings,
)

NUMBERS = settings("S8")
RUNAWAY = Arctangent()
NOISY = Saddle(deviation=(NUMBERS.deviation,))
CYCLE = LogCosh()


@cache
def _runaway() -> tuple[Float[np.ndarray, " steps"], Float[np.ndarray, " times"]]:
    """η_t = 1/t, and x after each of `NUMBERS.times`."""
    rates = 1.0 / np.arange(1, NUMBERS.times[-1] + 1)
    return rates, RUNAWAY.simulate(rates, kept=NUMBERS.times)[:, 0, 0]


def _how_far(time: int) -> Estimate:
    """x + x³/3 lies between Σ η and Σ η with the most that a step adds."""
    rates = _runaway()[0][:time]
    low = float(rates.sum())
    return Estimate.bound(
        low, low=low, high=low + RUNAWAY.most_excess(rates), method="per step", samples=time
    )


@cache
def _heights() -> Float[np.ndarray, "times runs"]:
    """y of runs with noise along y, from (0, 1)."""
    rates = 1 / (np.arange(1, NUMBERS.saddle_times[-1] + 1) + 1)
    return NOISY.simulate(rates, runs=NUMBERS.runs, seed=3, kept=NUMBERS.saddle_times)[:, :, 1]


@dataclass(frozen=True)
class Separable:
    """Two classes of the digits, which a linear classifier without decay separates.

    Args:
        pair: The two classes.
    """

    pair: tuple[int, int]

    @cached_property
    def signed_inputs(self) -> Float[np.ndarray, "examples inputs"]:
        """Every image with a constant, times +1 or −1: the classifier is right if ⟨w, z⟩ > 0."""
        images, labels = digits_network().everything
        one, other = (images.flatten(1)[labels == label].double().numpy() for label in self.pair)
        inputs = np.vstack([one, other])
        signs = np.repeat([1.0, -1.0], [len(one), len(other)])
        return np.asarray(np.column_stack([inputs, np.ones(len(inputs))]) * signs[:, None])

    @cached_property
    def margin(self) -> float:
        """γ, the largest min ⟨u, z⟩ of a unit vector u: the distance of the convex hull of z from
        zero."""
        heavy = float(np.linalg.norm(self.signed_inputs, axis=1).max())
        # The last row asks that the shares add up to one; it weighs as much as the heaviest
        # example.
        rows = np.vstack([self.signed_inputs.T, np.full(len(self.signed_inputs), heavy)])
        shares, _ = nnls(
            rows, np.append(np.zeros(self.signed_inputs.shape[1]), heavy), maxiter=100_000
        )
        return float(np.linalg.norm(self.signed_inputs.T @ (shares / shares.sum())))

    def length(self, reached: int) -> Estimate:
        """‖w‖ at −log L = `reached`: no shorter w has this loss, and no step of descent is wasted.

        Source: Soudry et al. (2018), The Implicit Bias of Gradient Descent on Separable Data; Ji &
        Telgarsky (2019).
        """
        # No shorter w has this loss; the upper end loses only what a step of finite length wastes.
        low = (reached - math.log(len(self.signed_inputs))) / self.margin
        high = (reached + math.log(math.log(2))) / self.margin / (1 - NUMBERS.reach / 2)
        middle = reached / self.margin
        return Estimate.bound(
            middle, low=low, high=high, method="largest margin", samples=len(self.signed_inputs)
        )

    @cached_property
    def lengths(self) -> dict[int, float]:
        """‖w‖ of gradient descent from zero, when −log L reaches each of `NUMBERS.reached`; the
        rate grows as 1/L."""
        weights, found = np.zeros(self.signed_inputs.shape[1]), dict[int, float]()
        rate = NUMBERS.reach / float(np.square(self.signed_inputs).sum(axis=1).max())
        while len(found) < len(NUMBERS.reached):
            scores = self.signed_inputs @ weights
            loss = float(np.logaddexp(0, -scores).mean())
            if -math.log(loss) >= NUMBERS.reached[len(found)]:
                found[NUMBERS.reached[len(found)]] = float(np.linalg.norm(weights))
            # At a constant rate ‖w‖ grows as log t, and −log L = 100 would take e¹⁰⁰ steps.
            weights += rate / loss * (expit(-scores) @ self.signed_inputs) / len(self.signed_inputs)
        return found


@cache
def _separable() -> Separable:
    return Separable((0, 1))


@cache
def _twins() -> tuple[dict[int, float], dict[int, float]]:
    """The relative distance of two hidden units that begin equal, in a network that is trained on
    the digits, by the number of steps; and the same if the noise of a batch pushed each of them on
    its own."""
    network = digits_network()
    torch.manual_seed(4)
    hidden, last = nn.Linear(64, 32), nn.Linear(32, 10)
    with torch.no_grad():
        for tensor in (hidden.weight, hidden.bias):
            # Equal weights into both units and out of both: nothing tells them apart.
            tensor[1] = tensor[0]
        last.weight[:, 1] = last.weight[:, 0]
    model = nn.Sequential(nn.Flatten(), hidden, nn.ReLU(), last)
    optimizer = torch.optim.SGD(model.parameters(), lr=NUMBERS.twin_rate)
    distance, apart, pushed, before = {}, {}, 0.0, torch.zeros(64)
    for step in network.sgd(model, optimizer, 32, NUMBERS.twin_steps[-1], seed=5):
        push = hidden.weight.grad[0].clone()  # type: ignore[index]  # there is one after a step
        # twice the noise of a batch
        pushed += NUMBERS.twin_rate**2 * float((push - before).square().sum()) * (step > 1)
        before = push
        if step in NUMBERS.twin_steps:
            length = float(hidden.weight[0].detach().norm())
            distance[step] = float((hidden.weight[1] - hidden.weight[0]).detach().norm()) / length
            apart[step] = math.sqrt(pushed) / length
    return distance, apart


def _leaving(time: int) -> Estimate:
    """E x² near the saddle, with a part of the noise along x."""
    generator = np.random.default_rng(6)
    x, y = np.zeros(NUMBERS.runs), np.ones(NUMBERS.runs)
    for _ in range(time):
        slope = NOISY.gradient((x, y), (np.zeros(NUMBERS.runs),))
        x = x - NUMBERS.leaving_rate * (
            slope[0] + NUMBERS.kick * generator.standard_normal(NUMBERS.runs)
        )
        y = y - NUMBERS.leaving_rate * slope[1]
    return mean_estimate(x**2)


def _growth(time: int) -> float:
    """E x² at a time, to first order in x: the saddle pushes away, and each step adds (ηc)²."""
    growth = float(1 - NUMBERS.leaving_rate * NOISY.smallest_curvature) ** 2
    kicked = float(NUMBERS.leaving_rate * NUMBERS.kick) ** 2
    return kicked * (growth**time - 1) / (growth - 1)


known = partial(Experiment, setting=Circumstance.KNOWN)


S8 = Statement(
    name="S8",
    title="Rigor police",
    claim=(
        "One can build cases in which Φ runs to infinity, ends at a saddle, or ends in a limit "
        "cycle."
    ),
    experiments=(
        known(
            name="runaway",
            where="π/2 − atan x at η_t = 1/t",
            quantity="x + x³/3",
            dial="step, t",
            points=NUMBERS.times,
            predict=_how_far,
            measure=lambda time: RUNAWAY.clock(_runaway()[1][NUMBERS.times.index(time)]),
            says=(
                "All three conditions hold, the loss converges, the gradient goes to zero, and x "
                "goes to infinity as (3 Σ η)^⅓: there is no minimum."
            ),
        ),
        known(
            name="saddle",
            where="(1 + cos πx)/2 + y²/2 from (0, 1) at η_t = 1/(t + 1), noise along y",
            quantity="E y², with x = 0",
            dial="step, t",
            points=NUMBERS.saddle_times,
            predict=lambda time: NOISY.height(time) ** 2 + NOISY.height_variance(time),
            measure=lambda time: mean_estimate(_heights()[NUMBERS.saddle_times.index(time)] ** 2),
            says=(
                "Every run ends at the saddle (0, 0): the theorem promises a stationary point, not "
                "a minimum."
            ),
        ),
        known(
            name="cycle",
            where="log cosh x, gradient descent at a constant rate",
            quantity="|x| after 2,000 steps",
            dial="learning rate, η",
            points=NUMBERS.cycle_rates,
            predict=CYCLE.orbit,
            measure=lambda rate: abs(
                CYCLE.simulate([rate] * NUMBERS.cycle_steps, kept=[NUMBERS.cycle_steps])[0, 0, 0]
            ),
            says=(
                "Above η = 2 it ends in a cycle of two points ±x with 2x = η tanh x, and never at "
                "the minimum."
            ),
            log_dial=False,
            log=False,
        ),
        Experiment(
            name="infinity",
            setting=Circumstance.REAL,
            where="zeros against ones of the digits, a linear classifier without decay",
            quantity="length of the weights, ‖w‖",
            dial="how small the loss is, −log L",
            points=NUMBERS.reached,
            predict=lambda reached: _separable().length(reached),
            measure=lambda reached: _separable().lengths[reached],
            rival=Rival(
                "rest at a minimum from the first point on",
                lambda _: _separable().length(NUMBERS.reached[0]).value,
            ),
            says=(
                "The loss goes to zero, and Φ to infinity: ‖w‖ grows as −log L/γ, with γ the "
                "largest margin between the classes, from a quadratic programme on the images "
                "alone. At a constant rate this takes exponentially many steps, so here the rate "
                "grows as 1/L."
            ),
        ),
        Experiment(
            name="twins",
            setting=Circumstance.REAL,
            where="a network 64-32-10 on the digits, two of its hidden units equal at the start",
            quantity="distance of the two units, relative",
            dial="step, t",
            points=NUMBERS.twin_steps,
            predict=lambda time: Estimate.bound(
                0.0, low=0.0, high=NUMBERS.twin_rounding, method="symmetry", samples=time
            ),
            measure=lambda time: _twins()[0][time],
            rival=Rival("a random walk of each unit on its own", lambda time: _twins()[1][time]),
            says=(
                "The noise of batches cannot separate two equal units: they get the same "
                "gradients, and stay one unit for ever. The set in which they are equal is a "
                "saddle that SGD does not leave."
            ),
            log=False,
        ),
        Experiment(
            name="leaving",
            setting=Circumstance.FAILS,
            where="the same saddle at η = 0.1 with a little noise along x",
            quantity="E x²",
            dial="step, t",
            points=NUMBERS.leaves,
            predict=_growth,
            measure=_leaving,
            claim=lambda _: 0.0,
            says=(
                "A little noise along the falling direction is enough: it grows by (1 + ηπ²/2)² "
                "per step, and the run leaves. A saddle holds SGD only if the noise has no part in "
                "the way out."
            ),
        ),
    ),
    limits=(
        "These cases are constructed: a direction without noise, a symmetry, a rate above the "
        "edge, a loss without a minimum. Noise in all directions leaves a saddle. A network that "
        "fits its training set exactly does run to infinity, slowly."
    ),
    interactive="counterexamples",
)
