"""The kind of a trajectory, from a few iterates of every doubling of time: numbers about its path,
and a name."""

import math
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from gradiometer.measurement.estimate import LEVEL, Estimate, Estimates
from gradiometer.measurement.uncertainty.means import mean, student_quantile

# Groups of three consecutive iterates per doubling of time; the sixteenth stored iterate is its
# last.
GROUPS = 5

# No iterate before this step is stored: the first ones depend mostly on the start.
SETTLED_IN = 16

FEWEST_DOUBLINGS = 4

# Only so many of the latest doublings are used.
LONGEST_MEMORY = 10

# log₂ of the length of a move, or of the growth of ‖Φ‖ in a doubling, change per doubling. Above
# this, their sum has no end in sight; below, only a few such moves are left.
NO_END = -0.2

# Cosine between the last doubling's move and Φ from which the norm says where the parameters go.
OUTWARDS = 0.7

# p from which a path whose speed falls as (Σ η)^−p may come to rest; with p ≤ 1 its length has no
# end.
TO_REST = 1.25

METHOD = "least squares over doublings"


class Kind(StrEnum):
    """The kind of a trajectory."""

    CONVERGING = "converging"
    WANDERING = "wandering"
    UNDER_WAY = "under way"
    DIVERGING = "diverging"
    SHAKING = "shaking apart"
    CIRCLING = "circling"
    CANNOT_TELL = "cannot tell"


@dataclass(frozen=True)
class Trail:
    """The groups of a trajectory, oldest first.

    Args:
        steps: The middle step of each.
        time: Σ η up to it, by the trapezoid rule between stored iterates.
        centres: (Φ_{t−1} + 2Φ_t + Φ_{t+1})/4, in which an oscillation of period two cancels:
            [groups, sketch].
        products: Δ_t · Δ_{t+1} of the two steps of each.
        squares: (‖Δ_t‖² + ‖Δ_{t+1}‖²)/2.
    """

    steps: Int[np.ndarray, " groups"]
    time: Float[np.ndarray, " groups"]
    centres: Float[np.ndarray, "groups sketch"]
    products: Float[np.ndarray, " groups"]
    squares: Float[np.ndarray, " groups"]

    @classmethod
    def of(
        cls,
        steps: Int[np.ndarray, " kept"],
        points: Float[np.ndarray, "kept sketch"],
        learning_rates: Float[np.ndarray, " kept"],
    ) -> "Trail":
        """From the stored iterates and their η: the latest whole doublings, and the group before
        them."""
        starts, place = [], int(np.searchsorted(steps, SETTLED_IN))
        while place + 2 < len(steps):
            # A step that was not measured leaves a gap, and no group spans it.
            if steps[place + 2] == steps[place] + 2:
                starts.append(place)
                place += 3
            else:
                place += 1
        first = np.array(starts, dtype=np.int64)
        whole = max(len(first) - 1, 0) // GROUPS * GROUPS + 1
        first = first[-min(whole, LONGEST_MEMORY * GROUPS + 1) :]
        passed = np.diff(steps) * (learning_rates[1:] + learning_rates[:-1]) / 2
        time = np.concatenate([[0.0], np.cumsum(passed)]) + steps[:1] * learning_rates[:1]
        before, middle, after = (points[first + place] for place in range(3))
        one, other = middle - before, after - middle
        return cls(
            steps[first + 1],
            time[first + 1],
            (before + 2 * middle + after) / 4,
            (one * other).sum(axis=1),
            ((one**2).sum(axis=1) + (other**2).sum(axis=1)) / 2,
        )

    @property
    def doublings(self) -> int:
        """Whole doublings, of five groups and so of five moves each."""
        return max(len(self.steps) - 1, 0) // GROUPS

    @property
    def moves(self) -> Float[np.ndarray, "moves sketch"]:
        """The moves from each centre to the next."""
        return np.diff(self.centres, axis=0)

    def last(self, doublings: int) -> "Trail":
        """The latest doublings only."""
        window = slice(max(len(self.steps) - doublings * GROUPS - 1, 0), None)
        return Trail(
            self.steps[window],
            self.time[window],
            self.centres[window],
            self.products[window],
            self.squares[window],
        )


def facts_of(path: Trail, level: float = LEVEL) -> Estimates:
    """The numbers that decide the kind of a trajectory. Slopes and correlations have intervals, the
    rest is exact.

    - `step_correlation`: 2Δ_t·Δ_{t+1}/(‖Δ_t‖² + ‖Δ_{t+1}‖²), the mean over the last two doublings:
      −1 for a cycle of two, 0 for noise, 1 for a smooth path.
    - `move_slope`: log₂ of the root mean squared move between centres, change per doubling: −½ for
      η ∝ 1/t on a quadratic, 0 for a path that keeps to a place, ½ for a random walk.
    - `step_slope`: log₂ of the root mean squared step, change per doubling.
    - `travel`: net distance of the last doubling, in steps of root mean squared length.
    - `straightness`: net distance over path length, in the last four doublings.
    - `alignment`: cosine between the last doubling's move and Φ.
    - `norm_growth`: log₂ of the growth of ‖Φ‖ in a doubling, change per doubling: 0 if ‖Φ‖ grows as
      log t, −∞ if it does not grow in each of the last four.
    - `turns`: signed turns about the centroid in the plane of most of the path, in the last four
      doublings.
    - `turn_consistency`: net turns over all turning, ±1 if the path never turns back.
    - `slowing`: p if the speed falls as (Σ η)^-p.
    - `slowing_misfit`: residuals of that law over those of an exponential decay; below 1 the power
      law fits better.

    >>> import numpy as np
    >>> from gradiometer.convergence.trajectory.path_facts import Trail, facts_of, kind_of
    >>> from gradiometer.convergence.trajectory.trajectory import keeps
    >>> steps = np.array([step for step in range(1000) if keeps(step)])
    >>> line = steps[:, None] * np.array([1.0, 2.0])
    >>> facts = facts_of(Trail.of(steps, line, np.full(len(steps), 0.1)))
    >>> print(facts["straightness"], kind_of(facts))
    1.00 under way
    """
    if path.doublings < FEWEST_DOUBLINGS:
        return {
            "step_correlation": Estimate.unknown(
                level=level, method="too few doublings", samples=len(path.steps)
            )
        }
    late, latest, last = path.last(4), path.last(2), path.last(1)
    correlations = latest.products / np.maximum(latest.squares, np.finfo(np.float64).tiny)
    turns, consistency = _turning(late.centres)
    slowing, misfit = _slowing(path.last(6), level)
    norm, moved, end = np.linalg.norm, last.moves.sum(axis=0), path.centres[-1]
    growth = np.diff(norm(late.centres[::GROUPS], axis=1))
    norm_growth = (
        _slope_of_line(np.arange(len(growth)), np.log2(growth), level)
        if (growth > 0).all()
        else _minus_infinity("does not grow", len(growth))
    )
    exact = {
        "travel": _share(norm(moved), math.sqrt(float(last.squares[1:].mean()))),
        "straightness": _share(norm(late.moves.sum(axis=0)), norm(late.moves, axis=1).sum()),
        "alignment": _share(end @ moved, norm(end) * norm(moved)),
        "turns": turns,
        "turn_consistency": consistency,
        "slowing_misfit": misfit,
    }
    return {
        "step_correlation": mean(correlations, level=level, batches=len(correlations)),
        "move_slope": _slope((path.moves**2).sum(axis=1), level),
        "step_slope": _slope(path.squares[1:], level),
        "slowing": slowing,
        "norm_growth": norm_growth,
        **{name: Estimate.exact(value) for name, value in exact.items()},
    }


def kind_of(facts: Estimates) -> Kind:
    """The kind of a trajectory, from `facts_of`. An interval that contains a threshold decides
    nothing about it."""
    if "straightness" not in facts:
        return Kind.CANNOT_TELL
    # Each step undoes the one before, the centre stays within two steps, and the steps do not get
    # smaller.
    shakes = facts["step_correlation"].high < -0.8 and facts["travel"].value < 2
    if shakes and not facts["step_slope"].low < NO_END:
        return Kind.SHAKING
    # At least one whole turn without turning back, on a path that does not contract.
    circles = abs(facts["turns"].value) >= 1 and abs(facts["turn_consistency"].value) >= 0.95
    if circles and not facts["move_slope"].high < NO_END:
        return Kind.CIRCLING
    moves = facts["move_slope"]
    # Noise about a point gives about 0.1.
    straight = facts["straightness"].value >= 0.6
    if moves.high < (NO_END if straight else 0):
        # The moves get shorter, but if they lead away from zero, and the norm grows without an end
        # in sight, their sum has no limit.
        growth = facts.get("norm_growth")
        grows = growth is not None and growth.value > NO_END
        outwards = facts["alignment"].value >= OUTWARDS
        return Kind.DIVERGING if grows and outwards else Kind.CONVERGING
    if straight:
        # A flight is along Φ, as its direction has settled and only its length grows, at a speed
        # that falls as a power of Σ η too low to bring it to rest.
        along = min(facts["straightness"].value, facts["alignment"].value) >= 0.95
        slow = along and facts["slowing"].high < TO_REST
        flies = slow and facts["slowing_misfit"].value < 0.5
        return Kind.DIVERGING if flies else Kind.UNDER_WAY
    # A path that is not straight keeps its size above −0.35: η ∝ 1/t gives −½, noise 0.
    return Kind.WANDERING if moves.low > -0.35 else Kind.CANNOT_TELL


def per_doubling(slope: Estimate) -> Estimate:
    """The factor of a length with every doubling of time, from the change of its log₂.

    >>> from gradiometer import Estimate
    >>> from gradiometer.convergence.trajectory.path_facts import per_doubling
    >>> print(per_doubling(Estimate.interval(-0.5, -1.0, 0.0, level=0.9, method="fit", samples=5)))
    0.707 [0.500, 1.00]
    """
    value, low, high = map(float, np.exp2([slope.value, slope.low, slope.high]))
    return replace(slope, value=value, low=low, high=high)


def _minus_infinity(why: str, samples: int) -> Estimate:
    return Estimate.bound(-math.inf, low=-math.inf, high=-math.inf, method=why, samples=samples)


def _share(part: "float | np.floating[Any]", whole: "float | np.floating[Any]") -> float:
    return float(part / whole) if whole > 0 else 0.0


def _slope(squares: Float[np.ndarray, " groups"], level: float) -> Estimate:
    """Change of log₂ of the root mean square per doubling; −∞ if the path is at rest by the end."""
    with np.errstate(divide="ignore"):
        values = np.log2(squares.reshape(-1, GROUPS).mean(axis=1)) / 2
    if not np.isfinite(values[-1]):
        return _minus_infinity("at rest", len(values))
    # A doubling at rest has no logarithm.
    values = values[np.isfinite(values)]
    if len(values) < FEWEST_DOUBLINGS:
        return Estimate.unknown(level=level, method=METHOD, samples=len(values))
    return _slope_of_line(np.arange(len(values)), values, level)


def _slope_of_line(
    x: Float[np.ndarray, " n"] | Int[np.ndarray, " n"], y: Float[np.ndarray, " n"], level: float
) -> Estimate:
    """Slope of a straight line, with Student's interval."""
    slope, squares, spread = _line(x, y)
    error = math.sqrt(squares / (len(x) - 2) / spread)
    margin = student_quantile(level, len(x) - 2) * error
    return Estimate.interval(
        slope, slope - margin, slope + margin, level=level, method=METHOD, samples=len(x)
    )


def _line(
    x: Float[np.ndarray, " n"] | Int[np.ndarray, " n"], y: Float[np.ndarray, " n"]
) -> tuple[float, float, float]:
    """The slope of a straight line, the sum of its squared residuals, and the sum of
    squares of x."""
    x = x - x.mean()
    slope = float(x @ y / (x @ x))
    rest = y - y.mean() - slope * x
    return slope, float(rest @ rest), float(x @ x)


def _turning(centres: Float[np.ndarray, "groups sketch"]) -> tuple[float, float]:
    """Net turns about the centroid in the plane that contains most of the path, and their share of
    all turning."""
    away = centres - centres.mean(axis=0)
    if away.shape[1] < 2:
        return 0.0, 0.0
    _, sizes, axes = np.linalg.svd(away, full_matrices=False)
    if not sizes[1] > 0.05 * sizes[0]:  # a line does not turn about anything
        return 0.0, 0.0
    plane = away @ axes[:2].T
    angles = np.diff(np.unwrap(np.arctan2(plane[:, 1], plane[:, 0]))) / (2 * math.pi)
    return float(angles.sum()), _share(float(angles.sum()), float(np.abs(angles).sum()))


def _slowing(path: Trail, level: float) -> tuple[Estimate, float]:
    """p of speed ~ (Σ η)^-p between the doublings' means, and its residuals over those of an
    exponential decay."""
    count = path.doublings - 1
    centres = path.centres[1:].reshape(path.doublings, GROUPS, -1).mean(axis=1)
    time = path.time[1:].reshape(path.doublings, GROUPS).mean(axis=1)
    passed, moved = np.diff(time), np.linalg.norm(np.diff(centres, axis=0), axis=1)
    if not (count >= 3 and (moved > 0).all() and (passed > 0).all() and time[0] > 0):
        return Estimate.unknown(level=level, method=METHOD, samples=count), math.inf
    slowness, between = -np.log(moved / passed), (time[1:] + time[:-1]) / 2
    power, exponential = _line(np.log(between), slowness)[1], _line(between, slowness)[1]
    return _slope_of_line(np.log(between), slowness, level), power / max(exponential, 1e-30)
