"""The result of a comparison: the differences, and the number of runs that a conclusion
would need."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import msgspec

from gradiometer.measurement import Estimate, Finding, Issue, State
from gradiometer.measurement.optimizer.hyperparameters import list_values
from gradiometer.measurement.uncertainty.differences import PairsNeeded
from gradiometer.run.reader import Run
from gradiometer.verdict import Diagnosis, diagnose, say
from gradiometer.verdict.words.comparison import apart, named

# Settings that do not change the configuration: those of the instrument and the machine, and the
# seed.
NOT_TRAINING = (
    *(
        "seed",
        "threads",
        "device",
        "data_dir",
        "checkpoint_seconds",
        "keep_checkpoints",
        "checkpoint_at",
    ),
    *("budget", "gauges", "check_edge", "check_endpoint", "every", "level", "parts"),
)

# The compared quantities. The verdict rests on the first one that both runs have, whatever its
# value.
QUANTITIES = {
    "test_loss": "test loss",
    "training_loss": "training loss",
    "test_accuracy": "test accuracy",
    "noise_scale": "noise scale",
}


@dataclass(frozen=True)
class Compared:
    """A run in a comparison.

    Args:
        run: The run.
        level: Level of the comparison.
    """

    run: Run
    level: float

    @cached_property
    def diagnosis(self) -> Diagnosis:
        """Its diagnosis, at the level of the comparison."""
        return diagnose(self.run, self.level)

    @cached_property
    def settings(self) -> Mapping[str, Any]:
        """The settings of the training without the seed. A default model appears under its name."""
        every = msgspec.structs.asdict(self.run.configuration)
        every["model"] = self.run.manifest.get("problem", {}).get("model", every.get("model"))
        # the same length may be given in epochs or in steps
        if "epochs" in every:
            every["steps"] = self.run.manifest.get("steps", every["steps"])
            del every["epochs"]
        if self.run.watched and (settings := self.run.hyperparameters) is not None:
            every["optimizer"] = " and ".join(settings.names)
            # the shape of the schedule may depend on the seed
            every["learning_rate"] = list_values(settings.peaks)
            every["weight_decay"] = settings.weight_decay_words
        return {name: value for name, value in every.items() if name not in NOT_TRAINING}

    @property
    def seed(self) -> int | None:
        """The seed of the training; None in a watched loop, whose seed is not recorded."""
        return None if self.run.watched else self.run.configuration.seed

    @property
    def seed_words(self) -> str:
        """The seed, such as "seed 0", or that it is not recorded."""
        return "seed not recorded" if self.seed is None else f"seed {self.seed}"

    @cached_property
    def examples(self) -> Mapping[int, Mapping[str, tuple[int, int]]]:
        """Places of the numbers of single held-out examples, by step and quantity."""
        return {event["step"]: event.get("examples", {}) for event in self.run.evaluations}

    @cached_property
    def evaluations(self) -> Mapping[int, Mapping[str, Estimate]]:
        """The estimates on held-out data, by step."""
        return {
            event["step"]: {name: Estimate(**fields) for name, fields in event["estimates"].items()}
            for event in self.run.evaluations
        }


@dataclass(frozen=True)
class RunGroup:
    """Runs of one configuration, which differ only in their seeds.

    Args:
        letter: A, B, …
        runs: The runs, one or more.
        step: The last step that all runs of the comparison have.
        numbers: Each quantity at this step: the mean over the seeds with its interval, or the
            estimate of the one run.
    """

    letter: str
    runs: tuple[Compared, ...]
    step: int
    numbers: Mapping[str, Estimate]

    @property
    def settings(self) -> Mapping[str, Any]:
        """The settings that all runs have in common."""
        return self.runs[0].settings

    @property
    def name(self) -> str:
        """The letter with the run, or with the number of seeds."""
        return (
            f"{self.letter} {self.runs[0].run.name}"
            if len(self.runs) == 1
            else f"{self.letter} ({self.seeds})"
        )

    @property
    def seeds(self) -> str:
        """The seeds in words: "seed 0", or "3 seeds"; "3 runs" if they do not differ in them."""
        if len(self.runs) == 1:
            return self.runs[0].seed_words
        return f"{len(self.runs)} {'seeds' if self.differ_in_seeds else 'runs'}"

    @property
    def differ_in_seeds(self) -> bool:
        """True if every run is known to have another seed."""
        seeds = {each.seed for each in self.runs}
        return None not in seeds and len(seeds) == len(self.runs)


@dataclass(frozen=True)
class Difference:
    """The difference of one quantity between two groups of runs.

    Args:
        quantity: Name of the quantity.
        estimate: The other group minus the baseline; for the noise scale, the other group divided
            by the baseline.
        over: The samples of the interval: "steps", "test examples" or "measured steps" of two runs,
            or "seeds".
        needed: Pairs of seeds needed to show a difference of this size; None if the spread is
            unknown.
    """

    quantity: str
    estimate: Estimate
    over: str
    needed: PairsNeeded | None = None

    @property
    def is_ratio(self) -> bool:
        """True if the estimate is a ratio, which is 1 if there is no difference."""
        return self.quantity == "noise_scale"

    @property
    def none(self) -> float:
        """The value of the estimate if there is no difference."""
        return 1.0 if self.is_ratio else 0.0

    @property
    def better(self) -> float:
        """How much better the other group is: positive if its loss is lower or its
        accuracy higher."""
        value = self.estimate.value - self.none
        return value if self.quantity == "test_accuracy" else -value

    @property
    def shown(self) -> bool:
        """True if the interval excludes "no difference"."""
        return self.estimate.low > self.none or self.estimate.high < self.none


@dataclass(frozen=True)
class Contrast:
    """A comparison of two configurations.

    Args:
        baseline, other: The runs of each configuration.
        step: The last step that all runs have. They are compared up to this step.
        changed: Settings that differ, as (value of the baseline, value of the other).
        differences: One per quantity, the deciding one first.
        pairs: Number of pairs of runs with the same seed.
    """

    baseline: RunGroup
    other: RunGroup
    step: int
    changed: Mapping[str, tuple[Any, Any]]
    differences: tuple[Difference, ...]
    pairs: int

    @property
    def deciding(self) -> Difference:
        """The difference on which the verdict rests."""
        return self.differences[0]

    @property
    def shown(self) -> bool:
        """True if there is a difference. Seeds of the same configuration never show one."""
        return bool(self.changed) and self.deciding.shown

    @property
    def names(self) -> tuple[str, str]:
        """Letters of the baseline and of the other."""
        return self.baseline.letter, self.other.letter


def verdict(groups: Sequence[RunGroup], contrasts: Sequence[Contrast]) -> str:
    """The comparison in one or two sentences."""
    if len(contrasts) == 1:
        return sentence(contrasts[0])
    quantity = next((name for name in QUANTITIES if name in groups[0].numbers), None)
    if not contrasts:
        (group,) = groups
        words = (
            ""
            if quantity is None
            else f" Their mean {QUANTITIES[quantity]} is {group.numbers[quantity]}."
        )
        differ = " and differ in their seeds" if group.differ_in_seeds else ""
        return f"All {len(group.runs)} runs have the same configuration{differ}.{words}"
    shown = [contrast for contrast in contrasts if contrast.shown]
    best = max(shown, key=lambda contrast: contrast.deciding.better, default=None)
    found = f"{len(shown)} of {len(contrasts)} configurations differ from {groups[0].letter}"
    if best is None:
        return f"No configuration is shown to differ from {groups[0].letter}."
    words = QUANTITIES[best.deciding.quantity]
    if best.deciding.better > 0:
        first, second = named(finding_of(best))
        return (
            f"{found}. {second} is best: it ends {apart(best.deciding.estimate)} in {words} than "
            f"{first}."
        )
    return f"{found}, and none is better in {words}."


def plain(value: object) -> str:
    """A setting as a person writes it, with few digits if it is a number that was computed."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def finding_of(contrast: Contrast) -> Finding:
    """A contrast as a finding: "look" if a difference is shown, otherwise "cannot tell"."""
    deciding, groups = contrast.deciding, (contrast.baseline, contrast.other)
    settings: tuple[str, tuple[str, str]] | None = None
    if len(contrast.changed) == 1:
        ((name, values),) = contrast.changed.items()
        settings = (name, (plain(values[0]), plain(values[1])))
    if not contrast.changed:
        claim = "comparison_of_seeds"
    elif contrast.shown:
        claim = "comparison_with_difference"
    else:
        claim = "comparison_without_difference"
    return Finding(
        gauge="comparison",
        issue=Issue.CONVERGENCE,
        claim=claim,
        state=State.LOOK if contrast.shown else State.CANNOT_TELL,
        facts={
            "names": contrast.names,
            "quantity": QUANTITIES[deciding.quantity],
            "difference": deciding.estimate,
            "is_ratio": deciding.is_ratio,
            "over_seeds": deciding.over == "seeds",
            "pairs": contrast.pairs,
            "setting": settings,
            "seeds": tuple(each.seed for group in groups for each in group.runs),
            "pairs_needed": deciding.needed,
            "next_seed": None
            if contrast.other.runs[0].seed is None
            else contrast.other.runs[0].seed + 1,
        },
    )


def sentence(contrast: Contrast) -> str:
    """A sentence that says if there is a difference, with its numbers."""
    return say(finding_of(contrast)).seen


def claim(contrast: Contrast) -> str:
    """A sentence that says what a conclusion about the configurations would need."""
    return say(finding_of(contrast)).means
