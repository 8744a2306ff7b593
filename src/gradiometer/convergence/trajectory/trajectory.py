"""The trajectory gauge: a few iterates of every doubling of time, as sketches, and the kind of path they follow."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from gradiometer.convergence.trajectory.path_facts import SETTLED_IN, Kind, Trail, facts_of, kind_of, per_doubling
from gradiometer.measurement.estimate import Estimates, significant
from gradiometer.measurement.finding import Finding, Issue, State
from gradiometer.measurement.gauge import Gauge
from gradiometer.measurement.reading import Moments, Series

if TYPE_CHECKING:  # runs are read on machines without torch
    from jaxtyping import Float
    from torch import Tensor

    from gradiometer.measurement.step import TrainingStep

NUMBERS = 61
"""Numbers in a sketch: a cosine between two moves has an error of about 1/√61 at most."""

PERIOD = NUMBERS * 2**12
"""Number of random signs; they are reused, shifted, for the next entries."""

ROLLED = 7919
"""The signs shift by this many places after every period."""

CAVEAT = "This is based on the iterates so far: they do not prove where the path ends."


def keeps(step: int) -> bool:
    """True if the iterate before this step is stored, from step 16 on: sixteen per doubling of the steps.

    They are five groups of three in a row, and the last one.

    A pure function of the step, so there is no state to save: a resumed run stores the same iterates.
    """
    if step < SETTLED_IN:
        return False
    length = 1 << (step.bit_length() - 1)
    past = step - length
    return past == length - 1 or any(0 <= past - group * length // 5 < 3 for group in range(5))


def kept_steps(steps: int) -> list[int]:
    """The steps whose iterates a run of this length stores, in order.

    >>> from gradiometer.convergence.trajectory import kept_steps
    >>> kept_steps(64)[-16:]
    [32, 33, 34, 38, 39, 40, 44, 45, 46, 51, 52, 53, 57, 58, 59, 63]
    """
    kept: list[int] = []
    length = SETTLED_IN
    while length < steps:
        groups = (length + group * length // 5 + place for group in range(5) for place in range(3))
        kept += sorted({*groups, 2 * length - 1})
        length *= 2
    return [step for step in kept if step < steps]


def sketch(parameters: "Sequence[Tensor]") -> "Float[Tensor, ' sketch']":
    """Φ itself if it has at most 61 numbers, else 61 sums of every 61st entry with random signs, in double precision.

    A linear map, the same at every step and in every run of this dimension. Inner products of sketches are unbiased,
    with a variance of at most about 2‖u‖²‖v‖²/61. Costs one pass over the parameters.

    Source: Charikar, Chen & Farach-Colton (2002), Finding Frequent Items in Data Streams; Weinberger et al. (2009),
        Feature Hashing for Large Scale Multitask Learning; here with every 61st entry instead of random ones: 61 is
        prime, so the rows of a layer do not line up.
    """
    import torch  # noqa: PLC0415

    whole = torch.cat([parameter.detach().reshape(-1) for parameter in parameters])
    if len(whole) <= NUMBERS:
        return whole.double().cpu()
    total = torch.zeros(NUMBERS, dtype=torch.float64, device="cpu")
    signs = _signs()
    for place, part in enumerate(whole.split(PERIOD)):
        # The shift is no multiple of 61, so no two entries of one sum share a sign: they would not cancel on average.
        first = place * ROLLED % PERIOD
        signed = part.double() * signs[first : first + len(part)].to(part.device)
        rows = len(signed) // NUMBERS * NUMBERS
        total += signed[:rows].reshape(-1, NUMBERS).sum(dim=0).cpu()
        total[: len(signed) - rows] += signed[rows:].cpu()
    return total


@cache
def _signs() -> "Float[Tensor, ' signs']":
    """The signs of a period, twice in a row."""
    import torch  # noqa: PLC0415

    generator = torch.Generator().manual_seed(0)
    return (2 * torch.randint(2, (PERIOD,), generator=generator, device="cpu") - 1).float().repeat(2)


@dataclass(frozen=True)
class Trajectory(Gauge):
    """The kind of path: converging, wandering, under way, diverging, shaking apart, circling, or cannot tell.

    Stores sixteen iterates per doubling of the number of steps, so memory and cost are O(log T): each costs a third of
    a step of a small network, a few per cent of the first thousand steps and 0.6 % of ten thousand. Uses the last ten
    doublings. Iterates of a network are stored as sketches of 61 numbers. The steps do not depend on the cadence of
    the other gauges, and a resumed run uses the same ones.

    The kinds are defined by thresholds on numbers about the path, chosen on thirteen runs with known ends and on
    ordinary ones. Fewer than four doublings after step 16 are too few.

    Source: the kinds are those the convergence theorem leaves open, Bertsekas & Tsitsiklis (2000), Gradient Convergence
        in Gradient Methods with Errors, prop. 3.
    """

    name: ClassVar[str] = "trajectory"
    issue: ClassVar[Issue] = Issue.CONVERGENCE
    unit: ClassVar[str] = "parameter"
    labels: ClassVar[Mapping[str, str]] = {
        "move_slope": "log₂ of the move from place to place, change per doubling",
        "step_slope": "log₂ of the length of a step, change per doubling",
        "step_correlation": "correlation of a step with the next",
        "straightness": "net distance over path length, last four doublings",
        "alignment": "cosine of the last doubling’s move with Φ",
        "turns": "turns about the centre, last four doublings",
        "norm_growth": "log₂ of the growth of ‖Φ‖, change per doubling",
        "slowing": "p, if the speed falls as (Σ η)^−p",
    }
    question: ClassVar[str] = "Where do the parameters go?"
    needs_loss: ClassVar[bool] = False
    processes: ClassVar[Literal["one", "many", "sharded"]] = "many"
    own_steps: ClassVar[bool] = True

    def wants(self, step: int) -> bool:
        """Sixteen steps of every doubling."""
        return keeps(step)

    def measure(self, step: "TrainingStep") -> Moments:
        """The sketch of Φ_t, before the update."""
        return {"point": sketch(step.objective.parameters).tolist()}

    def estimate(self, series: Series, level: float = 0.9) -> Estimates:
        """The numbers about the path, from `gradiometer.convergence.trajectory.path_facts.facts_of`."""
        return facts_of(Trail.of(series.steps, np.asarray(series.moments["point"]), series.learning_rate), level)

    def interpret(self, estimates: Estimates) -> Finding | None:
        """The kind of path, what it means, and advice."""
        kind = kind_of(estimates)
        state, means, advice = MEANINGS[kind]
        if kind is Kind.CANNOT_TELL:
            return Finding(self.name, self.issue, state, "The trajectory cannot be classified yet.", means, advice)
        seen = f"The parameters are {kind}: {_numbers(kind, estimates)}."
        return Finding(self.name, self.issue, state, seen, means, advice, CAVEAT)


MEANINGS: dict[Kind, tuple[State, str, str]] = {
    Kind.CONVERGING: (State.OK, "Each doubling of time moves them less: only a short way is left.", ""),
    Kind.WANDERING: (
        State.OK,
        "They stay in a region without coming to rest, as expected if the learning rate does not go to zero.",
        "",
    ),
    Kind.UNDER_WAY: (State.OK, "Training has kept one direction for several doublings of time.", ""),
    Kind.DIVERGING: (
        State.LOOK,
        "They slowly go to infinity, in a direction that no longer changes. The loss may still approach its infimum: "
        "cross-entropy does this once every example is classified correctly.",
        "Use weight decay, or stop here: only the norm still grows.",
    ),
    Kind.SHAKING: (
        State.ACT,
        "Each step undoes the one before: the learning rate is too large for the curvature.",
        "Halve the learning rate.",
    ),
    Kind.CIRCLING: (
        State.LOOK,
        "They move in circles without approaching a point: a limit cycle, whatever the loss does.",
        "Use weight decay, or average the iterates.",
    ),
    Kind.CANNOT_TELL: (State.CANNOT_TELL, "It takes about 300 steps, and four doublings of time of the same kind.", ""),
}


def _numbers(kind: Kind, estimates: Estimates) -> str:
    """The numbers that decided the kind."""
    if kind is Kind.SHAKING:
        return f"the correlation of each step with the next is {estimates['step_correlation']}"
    if kind is Kind.CIRCLING:
        return f"{significant(abs(estimates['turns'].value), 2)} turns in the last four doublings of time"
    if kind is Kind.DIVERGING and estimates["slowing"].high >= 1.25:
        return (
            f"‖Φ‖ has grown in each of the last four doublings of time, each time by "
            f"{per_doubling(estimates['norm_growth'])} times as much as the time before"
        )
    if kind is Kind.DIVERGING:
        return (
            f"the cosine between the last doubling's move and the parameters is "
            f"{significant(estimates['alignment'].value)}, and the speed falls as (Σ η)^−p with p = "
            f"{estimates['slowing']}"
        )
    moves, straight = estimates["move_slope"], significant(estimates["straightness"].value, 2)
    distance = f"the net distance is {straight} of the path length"
    if math.isnan(moves.value):
        return distance
    return f"with every doubling of time their moves become {per_doubling(moves)} times as long, and {distance}"
