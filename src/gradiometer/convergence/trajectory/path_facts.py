"""Where a trajectory goes, read off a few iterates of every doubling of time: facts of its path, and its name."""

import math
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from jaxtyping import Float, Int
from scipy.special import stdtrit

from gradiometer.measurement.estimate import Estimate, Estimates
from gradiometer.measurement.uncertainty.means import mean

GROUPS = 5
"""Groups of three consecutive iterates in a doubling of time; the sixteenth iterate kept is the last of it."""

SETTLED_IN = 16
"""Steps before which nothing is kept: the first iterates are mostly the start's."""

FEWEST_DOUBLINGS = 4
LONGEST_MEMORY = 10
"""Doublings looked at, at most."""

STRAIGHT = 0.6
"""Net distance over length of path, above which a path is called straight; noise about a point gives about 0.1."""

ALONG = 0.95
"""Cosine above which a flight goes where Φ already points: its direction has settled, and only its length grows."""

RECEDING = -0.2
"""log₂ of the stride per doubling. Below, what is left to go is a few strides; above, it may be without end."""


HOVERING = -0.35
"""log₂ of the stride per doubling, above which a path that is not straight keeps its size: 1/t gives −½."""


class Kind(StrEnum):
    """What a trajectory does."""

    CONVERGING = "converging"
    WANDERING = "wandering"
    UNDER_WAY = "under way"
    DIVERGING = "diverging"
    SHAKING = "shaking apart"
    CIRCLING = "circling"
    CANNOT_TELL = "cannot tell"


@dataclass(frozen=True)
class Path:
    """The groups of a trajectory, oldest first.

    Args:
        steps: Step in the middle of each.
        time: Σ η up to it, by the trapezoid rule between the iterates kept.
        centres: (Φ_{t−1} + 2Φ_t + Φ_{t+1})/4, where an oscillation of period two cancels: [groups, sketch].
        products: Δ_t · Δ_{t+1} of its two steps, and
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
    ) -> "Path":
        """From the iterates kept and η at each; whole doublings, counted back from the end, and the group before."""
        first = _starts(steps)
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
        """Whole ones, of five groups each, and so of five moves."""
        return max(len(self.steps) - 1, 0) // GROUPS

    @property
    def moves(self) -> Float[np.ndarray, "moves sketch"]:
        """From each centre to the next."""
        moves: np.ndarray = np.diff(self.centres, axis=0)
        return moves

    def last(self, doublings: int) -> "Path":
        """The latest so many doublings."""
        window = slice(max(len(self.steps) - doublings * GROUPS - 1, 0), None)
        return Path(
            self.steps[window], self.time[window], self.centres[window], self.products[window], self.squares[window]
        )


def _starts(steps: Int[np.ndarray, " kept"]) -> Int[np.ndarray, " groups"]:
    """Positions at which three consecutive steps begin, without overlap."""
    starts, place = [], int(np.searchsorted(steps, SETTLED_IN))
    while place + 2 < len(steps):
        if steps[place + 2] == steps[place] + 2:
            starts.append(place)
            place += 3
        else:
            place += 1
    return np.array(starts, dtype=np.int64)


def course(path: Path, level: float = 0.9) -> Estimates:
    """What decides a trajectory's name. Facts of the path are exact; slopes and correlations have intervals.

    - `step_correlation`: 2Δ_t·Δ_{t+1}/(‖Δ_t‖² + ‖Δ_{t+1}‖²), the mean over the last two doublings: −1 for a cycle of
      two, 0 for noise, 1 for a smooth path.
    - `stride_slope`: of log₂ of the root mean squared move between centres, per doubling: −½ for 1/t on a quadratic,
      0 for hovering, ½ for a random walk.
    - `step_slope`: of log₂ of the root mean squared step, per doubling.
    - `straightness`: net distance over length of path, in the last four doublings.
    - `alignment`: cosine of the last doubling's move with Φ itself.
    - `turns`: signed turns about the centroid in the plane of most of the path, in the last four doublings, and
      `turns_told`: their share of all turning, ±1 where it never turns back.
    - `slowing`: p where the speed falls as (Σ η)^-p, and `slowing_misfit`: the residuals of that law over those of an
      exponential decay; below 1 the power law fits better.
    """
    if path.doublings < FEWEST_DOUBLINGS:
        return {"step_correlation": Estimate.unknown(level=level, method="too few doublings", samples=len(path.steps))}
    late, latest = path.last(4), path.last(2)
    turns, told = _turning(late.centres)
    slowing, misfit = _slowing(path.last(6), level)
    correlations = latest.products / np.maximum(latest.squares, np.finfo(np.float64).tiny)
    return {
        "step_correlation": mean(correlations, level=level, batches=len(correlations)),
        "stride_slope": _slope(_per_doubling((path.moves**2).sum(axis=1)), level),
        "step_slope": _slope(_per_doubling(path.squares[1:]), level),
        "travel": Estimate.exact(_share(_norm(path.last(1).moves), math.sqrt(float(path.last(1).squares[1:].mean())))),
        "straightness": Estimate.exact(_share(_norm(late.moves.sum(axis=0)), np.linalg.norm(late.moves, axis=1).sum())),
        "alignment": Estimate.exact(_cosine(path.centres[-1], path.last(1).moves.sum(axis=0))),
        "turns": Estimate.exact(turns),
        "turns_told": Estimate.exact(told),
        "slowing": slowing,
        "slowing_misfit": Estimate.exact(misfit),
    }


def kind_of(estimates: Estimates) -> Kind:
    """The name of a trajectory, from its `course`; an interval that holds a border tells nothing about that side."""
    if "straightness" not in estimates:
        return Kind.CANNOT_TELL
    if _shakes(estimates):
        return Kind.SHAKING
    if _circles(estimates):
        return Kind.CIRCLING
    return _going(estimates)


def _going(estimates: Estimates) -> Kind:
    """Of a path that neither shakes nor circles."""
    stride = estimates["stride_slope"]
    if estimates["straightness"].value >= STRAIGHT:
        if stride.high < RECEDING:
            return Kind.CONVERGING
        return Kind.DIVERGING if _flies(estimates) else Kind.UNDER_WAY
    if stride.high < 0:
        return Kind.CONVERGING
    return Kind.WANDERING if stride.low > HOVERING else Kind.CANNOT_TELL


def _shakes(estimates: Estimates) -> bool:
    """Each step undoes the one before, the centre stays within a step or so, and the steps do not get smaller."""
    return (
        estimates["step_correlation"].high < -0.8
        and estimates["travel"].value < 2
        and not estimates["step_slope"].low < RECEDING
    )


def _circles(estimates: Estimates) -> bool:
    """A whole turn and never back, on a path that does not draw together."""
    turns, told = abs(estimates["turns"].value), abs(estimates["turns_told"].value)
    return turns >= 1 and told >= 0.95 and not estimates["stride_slope"].high < RECEDING


def _flies(estimates: Estimates) -> bool:
    """Straight on where Φ already points, at a speed that falls as a power of Σ η too low to bring it to rest."""
    return (
        estimates["straightness"].value >= ALONG
        and estimates["alignment"].value >= ALONG
        and estimates["slowing"].high < 1.25
        and estimates["slowing_misfit"].value < 0.5
    )


def _norm(moves: Float[np.ndarray, "..."]) -> float:
    """Of a vector, or of the sum of a path's moves."""
    return float(np.linalg.norm(moves.sum(axis=0) if moves.ndim == 2 else moves))


def _share(part: float, whole: float) -> float:
    return float(part / whole) if whole > 0 else 0.0


def _cosine(one: Float[np.ndarray, " sketch"], other: Float[np.ndarray, " sketch"]) -> float:
    return _share(float(one @ other), float(np.linalg.norm(one) * np.linalg.norm(other)))


def _per_doubling(squares: Float[np.ndarray, " groups"]) -> Float[np.ndarray, " doublings"]:
    """log₂ of the root of the mean in each doubling; −∞ where nothing moves."""
    means = squares.reshape(-1, GROUPS).mean(axis=1)
    with np.errstate(divide="ignore"):
        logarithms: np.ndarray = np.log2(means) / 2
    return logarithms


def _slope(values: Float[np.ndarray, " doublings"], level: float) -> Estimate:
    """Of the values over their place, by least squares with Student's interval; at rest by the end: −∞."""
    method = "least squares over doublings"
    if not np.isfinite(values[-1]):
        return Estimate.bound(-math.inf, low=-math.inf, high=-math.inf, method="at rest", samples=len(values))
    values = values[np.isfinite(values)]
    place = np.arange(len(values)) - (len(values) - 1) / 2
    if len(values) < FEWEST_DOUBLINGS:
        return Estimate.unknown(level=level, method=method, samples=len(values))
    slope, margin = _fitted(place, values, level)
    return Estimate.interval(slope, slope - margin, slope + margin, level=level, method=method, samples=len(values))


def _fitted(x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"], level: float) -> tuple[float, float]:
    """Slope of a straight line, and Student's margin of it."""
    x = x - x.mean()
    slope = float(x @ y / (x @ x))
    rest = y - y.mean() - slope * x
    error = math.sqrt(float(rest @ rest) / (len(x) - 2) / float(x @ x))
    return slope, float(stdtrit(len(x) - 2, (1 + level) / 2)) * error


def _turning(centres: Float[np.ndarray, "groups sketch"]) -> tuple[float, float]:
    """Net turns about the centroid in the plane that holds most of the path, and their share of all turning."""
    away = centres - centres.mean(axis=0)
    if away.shape[1] < 2:
        return 0.0, 0.0
    _, sizes, axes = np.linalg.svd(away, full_matrices=False)
    if not sizes[1] > 0.05 * sizes[0]:  # a line has no inside to turn about
        return 0.0, 0.0
    plane = away @ axes[:2].T
    angles = np.diff(np.unwrap(np.arctan2(plane[:, 1], plane[:, 0]))) / (2 * math.pi)
    return float(angles.sum()), _share(float(angles.sum()), float(np.abs(angles).sum()))


def _slowing(path: Path, level: float) -> tuple[Estimate, float]:
    """p of speed ~ (Σ η)^-p between the doublings' means, and how that law fits against an exponential decay."""
    method, count = "least squares over doublings", path.doublings - 1
    centres = path.centres[1:].reshape(path.doublings, GROUPS, -1).mean(axis=1)
    time = path.time[1:].reshape(path.doublings, GROUPS).mean(axis=1)
    passed, moved = np.diff(time), np.linalg.norm(np.diff(centres, axis=0), axis=1)
    if not (count >= 3 and (moved > 0).all() and (passed > 0).all() and time[0] > 0):
        return Estimate.unknown(level=level, method=method, samples=count), math.inf
    speed, between = np.log(moved / passed), (time[1:] + time[:-1]) / 2
    slope, margin = _fitted(np.log(between), speed, level)
    misfit = _residuals(np.log(between), speed) / max(_residuals(between, speed), 1e-30)
    return (
        Estimate.interval(-slope, -slope - margin, -slope + margin, level=level, method=method, samples=count),
        misfit,
    )


def _residuals(x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"]) -> float:
    """Sum of squares that a straight line leaves."""
    x = x - x.mean()
    rest = y - y.mean() - float(x @ y / (x @ x)) * x
    return float(rest @ rest)
