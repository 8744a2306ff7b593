"""What a comparison of runs holds, and what it says: the difference, and how many runs a claim would need."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import msgspec

from gradiometer.diagnosis import Diagnosis
from gradiometer.measurement.estimate import Estimate, significant
from gradiometer.measurement.uncertainty.differences import PairsNeeded
from gradiometer.run.reader import Run

BESIDE_THE_POINT = (
    *("seed", "threads", "device", "data_dir", "checkpoint_seconds", "keep_checkpoints"),
    *("budget", "gauges", "check_edge", "check_endpoint", "every", "level", "parts"),
)
"""Settings that are not of the training itself: the instrument's, the machine's, and the seed."""

QUANTITIES = {
    "test_loss": "test loss",
    "training_loss": "training loss",
    "test_accuracy": "test accuracy",
    "noise_scale": "noise scale",
}
"""What is compared; the first that both runs have decides, and is named before anything is looked at."""


@dataclass(frozen=True)
class Compared:
    """A run, its letter, and what was found in it.

    Args:
        letter: A, B, …
        run: The run.
        diagnosis: What its readings say, at the level of the comparison.
    """

    letter: str
    run: Run
    diagnosis: Diagnosis

    @property
    def settings(self) -> Mapping[str, Any]:
        """What the training was asked to do, its seed aside; a model that was left out by the name it has."""
        every = msgspec.structs.asdict(self.run.configuration)
        every["model"] = self.run.manifest.get("problem", {}).get("model", every["model"])
        return {name: value for name, value in every.items() if name not in BESIDE_THE_POINT}

    @property
    def seed(self) -> int:
        """The run's seed."""
        return self.run.configuration.seed

    @cached_property
    def evaluations(self) -> Mapping[int, Mapping[str, Estimate]]:
        """What was found on held-out data, by step."""
        return {
            int(event["step"]): {name: Estimate(**fields) for name, fields in event["estimates"].items()}
            for event in self.run.evaluations
        }


@dataclass(frozen=True)
class Difference:
    """One quantity of a group of runs against that of another.

    Args:
        quantity: Its name.
        estimate: The other less the baseline; of the noise scale, the other over the baseline.
        over: What the interval is over: "steps", "test examples", "measured steps" of two runs, or "seeds".
        needed: Pairs of seeds that would show a difference of this size; None where the spread is not known.
    """

    quantity: str
    estimate: Estimate
    over: str
    needed: PairsNeeded | None = None

    @property
    def is_ratio(self) -> bool:
        """Whether it is a quotient, and nothing is a difference of 1."""
        return self.quantity == "noise_scale"

    @property
    def none(self) -> float:
        """What the estimate would be if there were no difference."""
        return 1.0 if self.is_ratio else 0.0

    @property
    def shown(self) -> bool:
        """Whether the interval leaves no difference out."""
        return self.estimate.low > self.none or self.estimate.high < self.none


@dataclass(frozen=True)
class Contrast:
    """The runs of one configuration against those of another.

    Args:
        baseline, other: The runs, one or more of each.
        step: Up to which they are compared: the last that all of them have.
        changed: Settings that differ, as (baseline's, other's).
        differences: By quantity, the deciding one first.
        pairs: Pairs of runs with the same seed.
    """

    baseline: tuple[Compared, ...]
    other: tuple[Compared, ...]
    step: int
    changed: Mapping[str, tuple[Any, Any]]
    differences: tuple[Difference, ...]
    pairs: int

    @property
    def deciding(self) -> Difference:
        """The one the verdict rests on."""
        return self.differences[0]

    @property
    def shown(self) -> bool:
        """Whether there is a difference: none is ever shown between seeds of one configuration."""
        return bool(self.changed) and self.deciding.shown

    @property
    def names(self) -> tuple[str, str]:
        """Letters of the baseline's runs, and of the other's."""
        first, second = ("".join(each.letter for each in group) for group in (self.baseline, self.other))
        return first, second


def sentence(contrast: Contrast) -> str:
    """Whether there is a difference, with its numbers."""
    first, second = contrast.names
    deciding = contrast.deciding
    words = QUANTITIES[deciding.quantity]
    if not contrast.changed:
        seeds = " and ".join(str(each.seed) for each in (*contrast.baseline, *contrast.other))
        apart = f"{_signed(deciding.estimate)} in {words}"
        return (
            f"No difference is shown: {first} and {second} are one configuration with the seeds {seeds}, and {apart} "
            "is what seeds do."
        )
    what = f"the {words} of {second} less that of {first} is {_signed(deciding.estimate)}"
    over = ""
    if deciding.over == "seeds":
        over = f", over {deciding.estimate.samples} {'pairs of seeds' if contrast.pairs >= 2 else 'runs'}"
    return f"{'There is a difference' if contrast.shown else 'No difference is shown'}: {what}{over}."


def claim(contrast: Contrast) -> str:
    """What a claim about the configurations would need."""
    if not contrast.changed:
        return "A claim needs another configuration: nothing but the seed differs here."
    needed = contrast.deciding.needed
    if needed is None:
        return (
            f"It is about these two runs. How much of it the seeds do is not known from one run of each: a claim about "
            f"the configurations needs at least 2 seeds of each (--seed {contrast.other[0].seed + 1})."
        )
    if contrast.shown:
        return "It is about the configurations, with the spread between these seeds in the interval."
    return f"To show a difference of this size, {needed} pairs of seeds would be needed, with a chance of 80 %."


def _signed(estimate: Estimate) -> str:
    """With its sign: −0.02 [−0.05, 0.01]."""
    plus = "+" if estimate.value > 0 else ""
    return f"{plus}{significant(estimate.value)} [{significant(estimate.low)}, {significant(estimate.high)}]"
