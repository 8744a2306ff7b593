"""The settings of the optimizers along a run, as they were read, and sentences about them."""

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float, Int

from gradiometer.measurement.estimate import counted
from gradiometer.measurement.optimizer.groups import Family, Group

# Relative difference below which two rates are the same.
SAME = 1e-6

# Share of the steps so far for which a constant rate between a rise and a fall is mentioned.
A_WHILE = 0.05


# Curves from 1 to `end` over the part of the way, from 0 to 1.
CURVES: dict[str, Callable[[Float[np.ndarray, " n"], float], Float[np.ndarray, " n"]]] = {
    "cosine": lambda part, end: end + (1 - end) * (1 + np.cos(np.pi * part)) / 2,
    "linear": lambda part, end: 1 + (end - 1) * part,
    "exponential": lambda part, end: max(end, 1e-12) ** part,
}


@dataclass(frozen=True)
class Path:
    """A learning rate where it changed.

    Args:
        steps: Steps, in increasing order.
        rates: η from each step to the next one.
        reached: The last step of training so far, at least the last of `steps`.
    """

    steps: Int[np.ndarray, " lines"]
    rates: Float[np.ndarray, " lines"]
    reached: int

    def with_ends(self) -> "Path":
        """The path with a point at the end of every constant stretch."""
        starts = self.steps.tolist()
        # Rates are read at least once in a 64th of the steps so far: in a longer gap the rate was
        # constant.
        ends = [after - max(1, after // 64) for after in starts[1:]]
        steps: list[int] = []
        rates: list[float] = []
        for start, end, rate in zip(
            starts, [*ends, self.reached], self.rates.tolist(), strict=True
        ):
            stretch = [start, end] if end > start else [start]
            steps, rates = steps + stretch, rates + [rate] * len(stretch)
        return Path(np.array(steps), np.array(rates), self.reached)


def shape_of(path: Path) -> str:
    """The learning rate in words.

    >>> steps = np.arange(0, 1001, 20)
    >>> shape_of(Path(steps, 3e-4 + 3e-4 * np.cos(np.pi * steps / 1000) * 0.8, 1000))
    'cosine, from 5.4e-4 to 6e-5'
    >>> shape_of(Path(np.array([0]), np.array([0.1]), 500))
    'constant 0.1'
    """
    rates = path.rates
    peak = float(rates.max())
    if np.ptp(rates) <= SAME * peak:
        return f"constant {number(peak)}"
    changes = np.diff(rates)
    changes[np.abs(changes) <= SAME * peak] = 0.0
    signs = np.sign(changes[changes != 0])
    turns = int((np.diff(signs) != 0).sum())
    if turns == 0 and signs[0] > 0:
        filled = path.with_ends()
        peak = float(filled.rates[-1])
        first = int(filled.steps[np.argmax(filled.rates >= (1 - SAME) * peak)])
        if path.reached - first > A_WHILE * path.reached:
            rise = counted(first - int(filled.steps[0]), "step")
            return f"warm-up over {rise} to {number(peak)}, then constant"
        return f"rising, from {number(float(filled.rates[0]))} to {number(peak)} now"
    if turns == 0:
        return _fall(path.with_ends(), from_peak=True)
    if turns == 1 and signs[0] > 0:
        top = int(rates.argmax())
        rise = counted(int(path.steps[top] - path.steps[0]), "step")
        after = Path(path.steps[top:], rates[top:], path.reached).with_ends()
        return f"warm-up over {rise} to {number(peak)}, then {_fall(after, from_peak=False)}"
    low, now = number(float(rates.min())), number(float(rates[-1]))
    return f"up and down between {low} and {number(peak)}, now {now}"


def _fall(path: Path, *, from_peak: bool) -> str:
    """A path that never rises: cuts, a known curve, or neither.

    Args:
        path: The path, filled.
        from_peak: True if its first rate was not named yet.
    """
    steps, rates = path.steps, path.rates
    levels = np.flatnonzero(np.abs(np.diff(rates)) > SAME * rates[0]) + 1
    stretches = np.diff(np.concatenate([[0], levels, [len(rates)]]))
    # 4: maximum number of cuts that are listed one by one.
    if len(levels) <= 4 and (stretches[:-1] > 1).all():
        cuts = [f"{number(float(rates[at]))} from step {steps[at]:,}" for at in levels]
        return ", then ".join([number(float(rates[0])), *cuts] if from_peak else cuts)
    first, last = int(levels[0]) - 1, int(levels[-1])
    held = steps[first] - steps[0] > A_WHILE * path.reached
    name = _curve(steps[first : last + 1], rates[first : last + 1])
    if held and not name and last > first + 2:  # the step of its start is known only to a 64th
        name = _curve(steps[first + 1 : last + 1], rates[first + 1 : last + 1])
    high, low = number(float(rates[0])), number(float(rates[-1]))
    ended = (
        f", reached at step {steps[last]:,}"
        if path.reached - steps[last] > A_WHILE * path.reached
        else ""
    )
    if held:
        start = f"constant {high}" if from_peak else "constant"
        return f"{start} to step {steps[first]:,}, then {name or 'falling'} to {low}{ended}"
    if from_peak:
        return f"{name or 'falling'}, from {high} to {low}{ended}"
    return f"{name} to {low}{ended}" if name else f"falling, now {low}"


def _curve(steps: Int[np.ndarray, " n"], rates: Float[np.ndarray, " n"]) -> str:
    """The name of the curve that fits best; empty if none fits."""
    part = (steps - steps[0]) / (steps[-1] - steps[0])
    end = float(rates[-1] / rates[0])
    # 0.02: A curve fits if it misses no rate by more than this share of the fall.
    # 0.15: this share for a rate that changes in larger steps, such as once an epoch.
    allowed = min(max(0.02, float(-np.diff(rates).min()) / float(rates[0] - rates[-1])), 0.15)
    misses = {}
    for name, curve in CURVES.items():
        off = np.abs(curve(part, end) - rates / rates[0]) / (1 - end)
        if off.max() <= allowed:
            misses[name] = float(np.square(off).mean())
    return min(misses, key=lambda name: misses[name], default="")


def number(value: float) -> str:
    """A number as it is written in a program, with at most 3 digits: 0.1, 6e-4.

    >>> [number(value) for value in (0.1, 6e-4, 0.00123, 0.0, 1.0)]
    ['0.1', '6e-4', '0.00123', '0', '1']
    """
    if value == 0 or abs(value) >= 1e-3:
        return f"{value:.3g}"
    mantissa, _, exponent = f"{value:.2e}".partition("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"


# Maximum number of different values of groups that are listed. Of more, the range is given.
MOST_RATES = 3


@dataclass(frozen=True)
class Hyperparameters:
    """The settings of the optimizers along a run: each line is valid from its step to the next
    line.

    Args:
        steps: Steps at which the settings were read and had changed, in increasing order.
        groups: The parameter groups at each of these steps.
        reached: Last step of training so far.
        recorded: False if the rates are those of a planned schedule.

    >>> from gradiometer.measurement.optimizer.groups import Group
    >>> from gradiometer.measurement.optimizer.hyperparameters import Hyperparameters
    >>> before, after = Group("SGD", "sgd", 0.1, momentum=0.9), Group("SGD", "sgd", 0.01, momentum=0.9)
    >>> settings = Hyperparameters((0, 600), ((before,), (after,)), reached=900)
    >>> print(settings.optimizer, "·", settings.rate_words, "·", settings.momentum_words)
    SGD · 0.1, then 0.01 from step 600 · 0.9
    >>> settings.at(300)[0].learning_rate
    0.1
    """

    steps: tuple[int, ...]
    groups: tuple[tuple[Group, ...], ...]
    reached: int = 0
    recorded: bool = True

    def at(self, step: int) -> tuple[Group, ...]:
        """The groups at a step: those of the last line up to it, or of the first line."""
        return self.groups[max(bisect_right(self.steps, step) - 1, 0)]

    @property
    def now(self) -> tuple[Group, ...]:
        """The groups at the last line."""
        return self.groups[-1]

    @property
    def family(self) -> Family:
        """The family of the present optimizers; "other" if they are of several."""
        families = {group.family for group in self.now}
        return families.pop() if len(families) == 1 else "other"

    @property
    def names(self) -> tuple[str, ...]:
        """Class names of the present optimizers."""
        return _names(self.now)

    @property
    def optimizer(self) -> str:
        """The optimizers by name: "AdamW", or "Adam, then SGD from step 300" if they were
        exchanged."""
        parts = [" and ".join(_names(self.groups[0]))]
        for step, before, groups in zip(self.steps[1:], self.groups, self.groups[1:], strict=False):
            if _names(groups) != _names(before):
                parts.append(f"{' and '.join(_names(groups))} from step {step:,}")
        return ", then ".join(parts)

    @cached_property
    def rates(self) -> Float[np.ndarray, " lines"]:
        """The largest η of the groups at each line."""
        return np.array([max(group.learning_rate for group in groups) for groups in self.groups])

    @property
    def peaks(self) -> tuple[float, ...]:
        """The largest η so far of each present group, since the last change of the optimizer or of
        the groups."""
        return tuple(float(rates.max()) for rates in self._group_rates)

    @property
    def is_constant(self) -> bool:
        """True if no rate has changed since the last change of the optimizer or of the groups."""
        return all(len(np.unique(rates)) == 1 for rates in self._group_rates)

    @property
    def rate_words(self) -> str:
        """The learning rates in words: "cosine, from 6e-4 to 6e-5", "2 groups: 0.1 and 0.01,
        constant"."""
        rates = self._group_rates
        if len({tuple(path.tolist()) for path in rates}) == 1:
            return shape_of(self._path(rates[0]))
        groups, peaks = counted(len(rates), "group"), np.array(self.peaks)
        if self.is_constant:
            return f"{groups}: {list_values(self.peaks)}, constant"
        largest = int(peaks.argmax())
        with np.errstate(divide="ignore", invalid="ignore"):
            ratios = rates / rates[largest] if rates[largest].any() else rates
        known = np.isfinite(ratios).all(axis=0)
        # 0.01: the rates of groups have one shape if their ratio is constant to this relative
        # error.
        if np.ptp(ratios[:, known], axis=1).max() <= 0.01 * ratios[:, known].max():
            return (
                f"{groups} with peaks {list_values(self.peaks)}; the largest: "
                f"{shape_of(self._path(rates[largest]))}"
            )
        if len(rates) <= MOST_RATES:
            return f"{groups}: " + "; ".join(shape_of(self._path(path)) for path in rates)
        now = [float(path[-1]) for path in rates]
        return (
            f"{groups} with different schedules, peaks {list_values(self.peaks)}, now "
            f"{list_values(now)}"
        )

    @property
    def momentum_words(self) -> str:
        """The momentum in words; empty without. If it changes, its range and its present value."""
        paths = self._paths(lambda group: group.momentum)
        if not paths.any():
            return ""
        present = list_values([float(path[-1]) for path in paths])
        low, high = float(paths.min()), float(paths.max())
        moved = any(len(np.unique(path)) > 1 for path in paths)
        words = f"between {number(low)} and {number(high)}, now {present}" if moved else present
        return words + (", Nesterov" if any(group.nesterov for group in self.now) else "")

    @property
    def weight_decay_words(self) -> str:
        """The present weight decay in words; empty without."""
        decays = [group.weight_decay for group in self.now]
        return list_values(decays) if any(decays) else ""

    @property
    def facts(self) -> dict[str, str]:
        """Names and words of the settings: optimizer, learning rate, and momentum and weight decay
        if there are any."""
        named = {
            "optimizer": self.optimizer,
            "learning rate": self.rate_words,
            self.momentum_name: self.momentum_words,
            "weight decay": self.weight_decay_words,
        }
        return {name: words for name, words in named.items() if words}

    @property
    def sentence(self) -> str:
        """Optimizer, learning rate, momentum and weight decay in one line."""
        return " · ".join(
            [self.optimizer, *(f"{name} {words}" for name, words in list(self.facts.items())[1:])]
        )

    @property
    def momentum_name(self) -> str:
        """The name of the momentum: β₁ for Adam and its kind."""
        return "momentum" if self.family == "sgd" or "RMSprop" in self.names else "momentum (β₁)"

    @property
    def _since(self) -> int:
        """The first line with the present optimizers and the present number of groups."""
        present = (self.names, len(self.now))
        first = len(self.groups) - 1
        while (
            first > 0 and (_names(self.groups[first - 1]), len(self.groups[first - 1])) == present
        ):
            first -= 1
        return first

    @cached_property
    def _group_rates(self) -> Float[np.ndarray, "groups lines"]:
        return self._paths(lambda group: group.learning_rate)

    def _paths(self, value: Callable[[Group], float]) -> Float[np.ndarray, "groups lines"]:
        return np.array(
            [[value(group) for group in groups] for groups in self.groups[self._since :]]
        ).T

    def _path(self, rates: Float[np.ndarray, " lines"]) -> Path:
        steps = np.array(self.steps[self._since :], dtype=np.int64)
        return Path(steps, rates, max(self.reached, self.steps[-1]))


def list_values(values: "tuple[float, ...] | list[float]") -> str:
    """Different values, as "0.1 and 0.01"; the range if there are many."""
    different = list(dict.fromkeys(values))
    if len(different) > MOST_RATES:
        return f"from {number(min(different))} to {number(max(different))}"
    texts = [number(value) for value in different]
    return ", ".join(texts[:-1]) + (" and " if len(texts) > 1 else "") + texts[-1]


def _names(groups: tuple[Group, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(group.optimizer for group in groups))
