"""The settings of the optimizers along a run, as they were read, and sentences about them."""

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float, Int

from gradiometer.errors import BadArgument
from gradiometer.measurement.estimate import counted
from gradiometer.measurement.optimizer.groups import Family, Group
from gradiometer.measurement.optimizer.shape import Path, number, shape_of

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

    def __post_init__(self) -> None:
        if not len(self.steps) == len(self.groups) > 0:
            raise BadArgument(
                f"`groups` needs the groups of each step, got {len(self.groups)} of "
                f"{counted(len(self.steps), 'step')}."
            )

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
        steps: Int[np.ndarray, " lines"] = np.array(self.steps[self._since :], dtype=np.int64)
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
