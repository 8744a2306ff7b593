"""The trajectory: a few iterates of every doubling of time, as sketches, and what they say of where training goes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from gradiometer.convergence.trajectory.path_facts import SETTLED_IN, Kind, Path, course, kind_of
from gradiometer.measurement.estimate import Estimates, significant
from gradiometer.measurement.finding import Finding, Issue, State
from gradiometer.measurement.gauge import Gauge
from gradiometer.measurement.reading import Moments, Series

if TYPE_CHECKING:  # a trajectory is read, a year later, on a machine without torch
    from jaxtyping import Float
    from torch import Tensor

    from gradiometer.measurement.step import TrainingStep

KEPT = 16
"""Iterates of a doubling of time that are kept: five groups of three in a row, and the last."""

NUMBERS = 61
"""Of a sketch: a cosine between two moves is off by about 1/√61 at most, and an exact one by nothing."""

PERIOD = NUMBERS * 2**12
"""Entries under signs of their own: a quarter of a million."""

ROLLED = 7919
"""Places by which the signs move on after every period."""

CAVEAT = "Read off iterates up to here: a path has no proof of where it ends."


def keeps(step: int) -> bool:
    """Whether the iterate before this step is kept: from step 16 on, sixteen of every doubling of the steps are.

    A pure function of the step, so that there is no state to save: a resumed run keeps the same.
    """
    if step < SETTLED_IN:
        return False
    length = 1 << (step.bit_length() - 1)
    past = step - length
    return past == length - 1 or any(0 <= past - group * length // 5 < 3 for group in range(5))


def kept_steps(steps: int) -> list[int]:
    """The steps that a run of this length keeps, in order."""
    kept: list[int] = []
    length = SETTLED_IN
    while length < steps:
        groups = (length + group * length // 5 + place for group in range(5) for place in range(3))
        kept += sorted({*groups, 2 * length - 1})
        length *= 2
    return [step for step in kept if step < steps]


def sketch(parameters: "Sequence[Tensor]") -> "Float[Tensor, ' sketch']":
    """Φ itself where it has at most 61 numbers, else 61 sums of every 61st entry with random signs, as doubles.

    A linear map, the same at every step and in every run of this dimension, that keeps inner products without bias,
    with a variance of about 2‖u‖²‖v‖²/61 at most. Costs a pass over the parameters.

    Source: Charikar, Chen & Farach-Colton (2002), Finding Frequent Items in Data Streams; Weinberger et al. (2009),
        Feature Hashing for Large Scale Multitask Learning; here with every 61st entry in the place of random ones: a
        prime, so that the rows of a layer do not line up.
    """
    import torch  # noqa: PLC0415

    whole = torch.cat([parameter.detach().reshape(-1) for parameter in parameters])
    if len(whole) <= NUMBERS:
        return whole.double().cpu()
    total = torch.zeros(NUMBERS, dtype=torch.float64, device="cpu")
    signs = _signs()
    for place, part in enumerate(whole.split(PERIOD)):
        # Rolled by no multiple of 61, two entries of one sum never share a sign: they would not cancel on average.
        first = place * ROLLED % PERIOD
        signed = part.double() * signs[first : first + len(part)].to(part.device)
        rows = len(signed) // NUMBERS * NUMBERS
        total += signed[:rows].reshape(-1, NUMBERS).sum(dim=0).cpu()
        total[: len(signed) - rows] += signed[rows:].cpu()
    return total


@cache
def _signs() -> "Float[Tensor, ' signs']":
    """The signs of a period, drawn once, and the same again."""
    import torch  # noqa: PLC0415

    generator = torch.Generator().manual_seed(0)
    return (2 * torch.randint(2, (PERIOD,), generator=generator, device="cpu") - 1).float().repeat(2)


@dataclass(frozen=True)
class Trajectory(Gauge):
    """Where Φ goes: converging, wandering, under way, diverging, shaking apart, circling, or cannot tell.

    Keeps sixteen iterates of every doubling of the number of steps, so O(log T) memory and cost (a third of a step of
    a small network each: a few per cent of the first thousand steps, and 0.6 % of ten thousand), and looks at the last
    ten doublings. A network's iterates are kept as sketches of 61 numbers. Steps that are kept do not depend on the
    cadence: it is asked for its own, in a resumed run for the same ones.

    Names follow from thresholds on facts of the path; they were chosen on runs of thirteen kinds and on ordinary ones.
    Fewer than four doublings after step 16 say nothing.

    Source: what is told apart is what the theorem leaves open, Bertsekas & Tsitsiklis (2000), Gradient Convergence in
        Gradient Methods with Errors, prop. 3.
    """

    name: ClassVar[str] = "trajectory"
    issue: ClassVar[Issue] = Issue.CONVERGENCE
    unit: ClassVar[str] = "parameter"
    labels: ClassVar[Mapping[str, str]] = {
        "stride_slope": "log₂ of the move from place to place, change per doubling",
        "step_slope": "log₂ of the length of a step, change per doubling",
        "step_correlation": "correlation of a step with the next",
        "straightness": "net distance over length of path, last four doublings",
        "alignment": "cosine of the last doubling’s move with Φ",
        "turns": "turns about the centre, last four doublings",
        "slowing": "p where the speed falls as (Σ η)^−p",
    }
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
        """Facts of the path, as `gradiometer.convergence.trajectory.path_facts.course` has them."""
        return course(Path.of(series.steps, np.asarray(series.moments["point"]), series.learning_rate), level)

    def interpret(self, estimates: Estimates) -> Finding | None:
        """The name of the path, what it means, and what to try."""
        kind = kind_of(estimates)
        state, means, advice = MEANINGS[kind]
        seen = f"The parameters are {kind}{_numbers(kind, estimates)}."
        if kind is Kind.CANNOT_TELL:
            seen = "Where the parameters go cannot be told yet."
        caveat = "" if kind is Kind.CANNOT_TELL else CAVEAT
        return Finding(self.name, self.issue, state, seen, means, advice, caveat)


MEANINGS: dict[Kind, tuple[State, str, str]] = {
    Kind.CONVERGING: (State.OK, "Every doubling of time moves them less: what is left to go is short.", ""),
    Kind.WANDERING: (
        State.OK,
        "They keep to a region and do not come to rest, as a learning rate that does not go to zero has it.",
        "",
    ),
    Kind.UNDER_WAY: (State.OK, "Training goes on in a direction it has kept for some doublings of time.", ""),
    Kind.DIVERGING: (
        State.LOOK,
        "They go to infinity, slowly, along a direction that no longer turns. The loss may go to its infimum all the "
        "same: cross-entropy does this once every example is right.",
        "Weight decay, or stop here: only the norm still grows.",
    ),
    Kind.SHAKING: (
        State.ACT,
        "Each step undoes the one before: the learning rate is beyond what the curvature bears.",
        "A learning rate of half the size.",
    ),
    Kind.CIRCLING: (
        State.LOOK,
        "They go round without drawing nearer to a point: a limit cycle, whatever the loss does.",
        "Weight decay, or an average of the iterates.",
    ),
    Kind.CANNOT_TELL: (State.CANNOT_TELL, "It takes some four doublings of time after step 16, of one kind.", ""),
}


def _numbers(kind: Kind, estimates: Estimates) -> str:
    """The facts the name rests on."""
    if kind is Kind.SHAKING:
        return f": each step against the next has correlation {estimates['step_correlation']}"
    if kind is Kind.CIRCLING:
        return f": {significant(abs(estimates['turns'].value), 2)} turns in the last four doublings of time"
    if kind is Kind.DIVERGING:
        return (
            f": the move of the last doubling of time and the parameters have cosine "
            f"{significant(estimates['alignment'].value)}, and the speed falls as (Σ η) to the power "
            f"−{estimates['slowing']}"
        )
    if kind is Kind.CANNOT_TELL:
        return ""
    stride, straight = estimates["stride_slope"], significant(estimates["straightness"].value, 2)
    return f": log₂ of the stride changes by {stride} per doubling of time, net distance over length is {straight}"
