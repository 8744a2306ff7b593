"""Thirteen runs with a known end, from ordinary convergence to an endless winding: what a detector
is to name."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int

from gradiometer.convergence.theorem.theorem import read
from gradiometer.convergence.trajectory.endpoint import MANY, Endpoint
from gradiometer.convergence.trajectory.path_facts import Kind
from gradiometer.measurement import Objective
from gradiometer.problems import Problem
from gradiometer_lab.closed_forms import Quadratic
from gradiometer_lab.counterexamples import (
    DEAD_UNIT,
    Arctangent,
    Counterexample,
    LogCosh,
    Mirrored,
    Ring,
    Saddle,
    Softplus,
    Winding,
    dead_unit,
)
from known_steps import kept_steps


@dataclass(frozen=True)
class Case:
    """A problem, a schedule, a length, and what becomes of it.

    Args:
        name: Of the case.
        ends: What it does: diverging, saddle, symmetric start, shaking apart, circling, converging,
            wandering, or dead units.
        source: What it is a run of; None: the unit that dies.
        schedule: η, as a named shape.
        steps: How long.
        start: Of a quadratic, the same in every coordinate.
    """

    name: str
    ends: str
    source: Counterexample | Quadratic | None
    schedule: str
    steps: int
    start: float = 1.0

    def path(
        self, seed: int = 0
    ) -> tuple[
        Int[np.ndarray, " kept"], Float[np.ndarray, "kept params"], Float[np.ndarray, " kept"]
    ]:
        """Steps kept, the iterate before each, and η at each."""
        shape = read(self.schedule)
        rates = np.array([shape(step) for step in range(self.steps)])
        kept = np.array(kept_steps(self.steps), dtype=np.int64)
        if self.source is None:
            points = _trained(dead_unit(), rates)[kept]
        elif isinstance(self.source, Quadratic):
            start = np.full(self.source.dimension, self.start)
            points = self.source.simulate(rates, chains=1, batch_size=1, start=start, seed=seed)[
                kept, 0
            ]
        else:
            points = self.source.simulate(rates, seed=seed, kept=kept.tolist())[:, 0]
        return kept, points, rates[kept]

    def objective(self, point: Float[np.ndarray, " params"]) -> tuple[Objective, Problem]:
        """The model and its loss at this point."""
        problem = dead_unit() if self.source is None else self.source.problem()
        model = problem.model()
        if isinstance(self.source, Quadratic):
            problem = replace(problem, model=lambda: model)
        with torch.no_grad():
            torch.nn.utils.vector_to_parameters(
                torch.as_tensor(point, dtype=torch.float64), model.parameters()
            )
        return Objective(model, problem.loss), problem


def named(kind: Kind, endpoint: Endpoint) -> str:
    """A short name: the most unusual fact about the endpoint, else the kind of the path."""
    if any(some == all_ for some, all_ in endpoint.dead.values()):
        return "dead units"
    if any(some >= MANY * all_ for some, all_ in endpoint.twins.values()):
        return "symmetric start"
    return "saddle" if kind is not Kind.UNDER_WAY and endpoint.saddle else str(kind)


def _trained(
    problem: Problem, rates: Float[np.ndarray, " steps"]
) -> Float[np.ndarray, "steps params"]:
    """The iterates of full-batch gradient descent, before each step."""
    model = problem.model()
    batch = problem.train.batch(torch.arange(len(problem.train)))
    iterates = []
    for rate in rates:
        iterates.append(
            torch.nn.utils.parameters_to_vector(model.parameters()).detach().numpy().copy()
        )
        model.zero_grad()
        problem.loss(model, batch).mean().backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.sub_(float(rate) * parameter.grad)  # type: ignore[operator]
    return np.array(iterates)


CASES: tuple[Case, ...] = (
    Case("arctangent", "diverging", Arctangent(), "InversePower(1.0)", 2**13),
    Case("softplus", "diverging", Softplus(), "InversePower(1.0, power=0.6)", 2**13),
    Case("saddle", "saddle", Saddle(), "InversePower(0.5, time_constant=2)", 2**13),
    Case(
        "noisy saddle",
        "saddle",
        Saddle(deviation=(1.0,)),
        "InversePower(0.5, time_constant=2)",
        2**13,
    ),
    Case(
        "mirrored",
        "symmetric start",
        Mirrored(),
        "InversePower(0.5, power=0.6, time_constant=3)",
        2**13,
    ),
    Case("two-cycle", "shaking apart", LogCosh(), "Constant(3.0)", 2**12),
    Case(
        "overshooting", "shaking apart", Quadratic([1.0, 0.5], [1.0, 1.0]), "Constant(2.01)", 2**11
    ),
    Case(
        "winding",
        "circling",
        Winding(),
        "InversePower(0.007, power=0.6, time_constant=1000000)",
        2**19,
    ),
    Case("settling", "converging", Quadratic([1.0], [1.0]), "InversePower(1.0)", 2**13),
    Case("hovering", "wandering", Quadratic([1.0], [1.0]), "Constant(0.1)", 2**14),
    Case("ring", "converging", Ring(), "InversePower(0.5, power=0.75)", 2**14),
    Case("ring at a constant rate", "wandering", Ring(), "Constant(0.1)", 2**13),
    Case(DEAD_UNIT, "dead units", None, "Constant(2.0)", 2**9),
)
"""The thirteen on which the names' thresholds were chosen."""
