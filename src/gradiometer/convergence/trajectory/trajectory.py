"""The trajectory gauge: a few iterates of every doubling of time, as sketches, the kind of path
they follow, and how far it moves in each doubling."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from jaxtyping import Float

from gradiometer.convergence.trajectory.path_facts import (
    GROUPS,
    LONGEST_MEMORY,
    SETTLED_IN,
    TO_REST,
    Kind,
    Trail,
    facts_of,
    kind_of,
)
from gradiometer.measurement import Estimate, Estimates, Finding, Issue, Moments, Series, State
from gradiometer.measurement.estimate import LEVEL
from gradiometer.measurement.gauge import NOTHING_KNOWN, Gauge, RunFacts
from gradiometer.measurement.uncertainty.means import student_quantile

if TYPE_CHECKING:  # runs are read on machines without torch
    from torch import Tensor

    from gradiometer.measurement.step import TrainingStep

# Numbers in a sketch: a cosine between two moves has an error of about 1/√61 at most.
NUMBERS = 61

# Number of random signs; they are reused, shifted, for the next entries.
PERIOD = NUMBERS * 2**12


def keeps(step: int) -> bool:
    """True if the iterate before this step is stored, from step 16 on: sixteen per doubling of the
    steps.

    They are five groups of three in a row, and the last one.

    A pure function of the step, so there is no state to save: a resumed run stores the same
    iterates.
    """
    if step < SETTLED_IN:
        return False
    length = 1 << (step.bit_length() - 1)
    past = step - length
    return past == length - 1 or any(0 <= past - group * length // 5 < 3 for group in range(5))


def sketch(parameters: "Sequence[Tensor]") -> "Float[Tensor, ' sketch']":
    """Φ itself if it has at most 61 numbers, else 61 sums of every 61st entry with random signs, in
    double precision.

    A linear map, the same at every step and in every run of this dimension. Inner products of
    sketches are unbiased, with a variance of at most about 2‖u‖²‖v‖²/61. Costs one pass over the
    parameters.

    Source: Charikar, Chen & Farach-Colton (2002), Finding Frequent Items in Data Streams;
        Weinberger et al. (2009), Feature Hashing for Large Scale Multitask Learning; here with
        every 61st entry instead of random ones: 61 is prime, so the rows of a layer do not line up.
    """
    import torch  # noqa: PLC0415

    if sum(map(torch.Tensor.numel, parameters)) <= NUMBERS:
        whole = torch.cat([parameter.detach().reshape(-1) for parameter in parameters])
        return whole.double().cpu()
    total = torch.zeros(NUMBERS, dtype=torch.float64, device="cpu")
    signs = _signs()
    # On a CPU half a period stays in the cache: for 536,000 parameters a copy of all of them at
    # once took 3.7 times as long. On an accelerator the work goes in few calls.
    parts = PERIOD // 2 if parameters[0].is_cpu else PERIOD
    for place, part in enumerate(_stretches(parameters, parts)):
        period, begin = divmod(place * parts, PERIOD)
        # The shift is no multiple of 61, so no two entries of one sum share a sign: they would not
        # cancel on average. 7919: the signs shift by this many places after every period.
        first = period * 7919 % PERIOD + begin
        # A change of sign is exact, and the sum widens each entry on its way: a copy in double
        # precision took three times as long.
        signed = part.mul_(signs[first : first + len(part)].to(part.device))
        rows = len(signed) // NUMBERS * NUMBERS
        total += signed[:rows].reshape(-1, NUMBERS).sum(dim=0, dtype=torch.float64).cpu()
        total[: len(signed) - rows] += signed[rows:].cpu()
    return total


def _stretches(parameters: "Sequence[Tensor]", length: int) -> "Iterator[Tensor]":
    """All entries in their order, copied into vectors of this length. The last one may be shorter."""
    import torch  # noqa: PLC0415

    pieces: list[Tensor] = []
    room = length
    for parameter in parameters:
        for piece in (
            parameter.detach()
            .reshape(-1)
            .tensor_split(tuple(range(room, parameter.numel(), length)))
        ):
            pieces.append(piece)
            room -= len(piece)
            if not room:
                yield torch.cat(pieces)
                pieces = []
                room = length
    if pieces:
        yield torch.cat(pieces)


@cache
def _signs() -> "Float[Tensor, ' signs']":
    """The signs of a period, twice in a row."""
    import torch  # noqa: PLC0415

    generator = torch.Generator().manual_seed(0)
    return (
        (2 * torch.randint(2, (PERIOD,), generator=generator, device="cpu") - 1).float().repeat(2)
    )


@dataclass(frozen=True)
class Trajectory(Gauge):
    """The kind of path: converging, wandering, under way, diverging, shaking apart, circling, or
    cannot tell.

    Stores sixteen iterates per doubling of the number of steps, so memory and cost are O(log T):
    each costs a third of a step of a small network, a few per cent of the first thousand steps and
    0.6 % of ten thousand. Uses the last ten doublings. Iterates of a network are stored as sketches
    of 61 numbers. The steps do not depend on the cadence of the other gauges, and a resumed run
    uses the same ones.

    The kinds are defined by thresholds on numbers about the path, chosen on thirteen runs with
    known ends and on ordinary ones. Fewer than four doublings after step 16 are too few.

    Source: the kinds are those the convergence theorem leaves open, Bertsekas & Tsitsiklis (2000),
        Gradient Convergence in Gradient Methods with Errors, prop. 3.
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

    def estimate(self, series: Series, level: float = LEVEL) -> Estimates:
        """The numbers about the path, from
        `gradiometer.convergence.trajectory.path_facts.facts_of`."""
        return facts_of(
            Trail.of(series.steps, np.asarray(series.moments["point"]), series.learning_rate), level
        )

    def judge(self, estimates: Estimates, run: RunFacts = NOTHING_KNOWN) -> Finding | None:
        """The kind of path, with the numbers that decided it."""
        kind = kind_of(estimates)
        claim, state, names = CLAIMS[kind]
        if kind is Kind.DIVERGING and estimates["slowing"].high >= TO_REST:  # by its growth
            claim, names = "path_diverging_in_length", ("norm_growth",)
        facts: dict[str, Any] = {name: estimates[name] for name in names}
        facts["is_short"] = "straightness" not in estimates
        facts["is_constant"] = run.settings is not None and run.settings.is_constant
        return Finding(self.name, self.issue, claim, state, facts=facts)


# For each kind of path: its claim, its state, and the names of the numbers that decided it.
CLAIMS: dict[Kind, tuple[str, State, tuple[str, ...]]] = {
    Kind.CONVERGING: ("path_converging", State.OK, ("move_slope", "straightness")),
    Kind.WANDERING: ("path_wandering", State.OK, ("move_slope", "straightness")),
    Kind.UNDER_WAY: ("path_under_way", State.OK, ("move_slope", "straightness")),
    Kind.DIVERGING: ("path_diverging", State.LOOK, ("alignment", "slowing")),
    Kind.SHAKING: ("path_shaking_apart", State.ACT, ("step_correlation",)),
    Kind.CIRCLING: ("path_circling", State.LOOK, ("turns",)),
    Kind.CANNOT_TELL: ("path_unknown", State.CANNOT_TELL, ()),
}


@dataclass(frozen=True)
class MoveLength:
    """Lengths in one doubling of time.

    Attributes:
        first, last: The first and the last step of the doubling.
        moved: Root mean squared move between neighbouring groups, in the unit of Φ.
        stepped: Root mean squared length of one step.
    """

    first: int
    last: int
    moved: Estimate
    stepped: Estimate


def lengths_of(path: Trail, level: float = LEVEL) -> tuple[MoveLength, ...]:
    """The lengths in the last whole doublings of a path, at most ten, oldest first.

    The interval is Student's for the mean of five squares, on a logarithmic scale; if Φ has more
    than 61 numbers it includes the error of the sketch (a variance of 2/61 of the squared length).
    In simulation, nominal 90 % intervals cover in at least 98 % of doublings for sketched paths, in
    89 to 95 % if Φ has 5 to 60 numbers, and in 85 to 92 % if it has one or two; random walks are at
    the upper end, independent places at the lower.

    Args:
        path: The trajectory's groups.
        level: Confidence level, between 0 and 1.

    >>> import numpy as np
    >>> from gradiometer.convergence.trajectory.trajectory import lengths_of
    >>> from gradiometer.convergence.trajectory.path_facts import Trail
    >>> from gradiometer.convergence.trajectory.trajectory import keeps
    >>> steps = np.array([step for step in range(1000) if keeps(step)])
    >>> walk = np.random.default_rng(0).standard_normal((1000, 30)).cumsum(axis=0)[steps]
    >>> for length in lengths_of(Trail.of(steps, walk, np.full(len(steps), 0.1)))[-2:]:
    ...     print(length.first, length.last, length.moved)
    231 461 40.2 [32.5, 49.7] parameter
    461 922 47.2 [40.9, 54.4] parameter
    """
    path = path.last(LONGEST_MEMORY)
    count = path.doublings
    places = path.steps[len(path.steps) - 1 - GROUPS * count :: GROUPS]
    moves, steps = (
        squares[len(squares) - GROUPS * count :].reshape(count, GROUPS)
        for squares in ((path.moves**2).sum(axis=1), path.squares)
    )
    sketched = path.centres.shape[1] == NUMBERS
    return tuple(
        MoveLength(
            int(places[place]),
            int(places[place + 1]),
            _root_mean_square(moves[place], level, sketched=sketched),
            _root_mean_square(steps[place], level, sketched=sketched),
        )
        for place in range(count)
    )


def _root_mean_square(
    squares: Float[np.ndarray, " moves"], level: float, *, sketched: bool
) -> Estimate:
    """The root of the mean of some squares. Source of the interval on a logarithmic scale: the
    delta method."""
    count, square = len(squares), float(squares.mean())
    if not square > 0:
        return Estimate.exact(0.0, unit="parameter")
    # Neighbouring moves share an iterate: independent positions give their squares a correlation of
    # a quarter, and the mean of five so much more variance than independent squares.
    relative = 1.4 / 0.9 * float(squares.var(ddof=1)) / count / square**2 + (
        2 / NUMBERS if sketched else 0.0
    )
    factor = math.exp(student_quantile(level, count - 1) * math.sqrt(relative) / 2)
    length = math.sqrt(square)
    return Estimate.interval(
        length,
        length / factor,
        length * factor,
        level=level,
        method=f"Student, {count} moves, logarithmic",
        samples=count,
        unit="parameter",
    )
