"""The report on a run's snapshots as an ensemble, in numbers and sentences: kept in the run, and read without torch."""

import math
from dataclasses import dataclass, replace
from typing import ClassVar

from gradiometer.arguments import check_whole
from gradiometer.errors import BadArgument
from gradiometer.exploration.ensembles.calibration import ReliabilityBin
from gradiometer.measurement.artifact import Artifact
from gradiometer.measurement.estimate import Estimate
from gradiometer.measurement.finding import Finding, Issue, State

ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")
FEWEST = 2
"""Least number of members of an ensemble: the average of one model is that model."""

NO_POSTERIOR = (
    "This is a cheap ensemble, not a posterior: it has few members, the schedule decided where they are, and their "
    "spread is not a credible interval."
)


@dataclass(frozen=True)
class EnsembleSize:
    """The ensemble of the last m members.

    Args:
        members: m.
        scores: Every score, with its interval.
        added: Its scores less those of the last m − 1 members, paired by example; empty if m is 1.
    """

    members: int
    scores: dict[str, Estimate]
    added: dict[str, Estimate]


@dataclass(frozen=True)
class Baseline:
    """Another predictor: its scores, and the ensemble's scores less these, paired by example."""

    name: str
    scores: dict[str, Estimate]
    difference: dict[str, Estimate]


@dataclass(frozen=True)
class LinearPath:
    """The error along the straight line through weight space from one model to another.

    Args:
        shares: λ, from 0 at the first model to 1 at the last.
        errors: The error at each λ.
        barrier: The largest excess of the error over the straight line between the errors of the two ends.
    """

    shares: tuple[float, ...]
    errors: tuple[Estimate, ...]
    barrier: Estimate


@dataclass(frozen=True)
class EnsembleReport(Artifact):
    """The scores of a run's snapshots, averaged.

    Args:
        snapshots: M, the number of snapshots.
        chosen: m, the number of last snapshots that predict best on the validation examples.
        temperature: τ of their average, fitted on the validation examples.
        scored: Number of test examples that are scored.
        validation: Number of test examples that chose m and τ.
        sizes: The ensembles of the last m = 1, 2, …, M snapshots.
        baselines: The last snapshot, the average of the weights, and other runs.
        disagreement_over_error: How often two snapshots predict different classes, over how often one is wrong.
        correlations: Correlation of the outputs of every two snapshots, by their numbers, such as "1-2".
        paths: The path from each earlier snapshot, in order, to the last one; empty if not computed.
        reliability: The reliability diagram of the chosen ensemble, uncalibrated, least confident bin first.
        deep_ensemble_equivalent: The number of other runs whose ensemble is as good; None if fewer than two were given.
    """

    files: ClassVar[str] = "ensemble.json"

    snapshots: int
    chosen: int
    temperature: float
    scored: int
    validation: int
    sizes: tuple[EnsembleSize, ...]
    baselines: tuple[Baseline, ...]
    disagreement_over_error: Estimate
    correlations: dict[str, Estimate]
    paths: tuple[LinearPath, ...]
    reliability: tuple[ReliabilityBin, ...]
    deep_ensemble_equivalent: Estimate | None = None

    def __post_init__(self) -> None:
        check_whole("snapshots", self.snapshots, FEWEST)
        check_whole("chosen", self.chosen, FEWEST)
        if not self.chosen <= self.snapshots == len(self.sizes):
            raise BadArgument(
                f"`chosen` must be at most the number of `sizes`, one for each of {self.snapshots} snapshots, got "
                f"{self.chosen} and {len(self.sizes)}."
            )
        if not self.baselines:
            raise BadArgument("`baselines` must begin with the last snapshot, got none.")
        compared = (self.baselines[0].difference, self.sizes[self.chosen - 1].added, self.sizes[0].scores)
        for found, name in zip(compared, ("calibrated_nll", "calibrated_nll", "error"), strict=True):
            if name not in found:
                raise BadArgument(f"`sizes` and `baselines` must have the score {name}, and one has not.")

    @property
    def scores(self) -> dict[str, Estimate]:
        """The scores of the chosen ensemble."""
        return self.sizes[self.chosen - 1].scores

    @property
    def gain(self) -> Estimate:
        """Calibrated log-loss of the last snapshot less that of the ensemble, paired by example."""
        return negative(self.baselines[0].difference["calibrated_nll"])

    @property
    def sentences(self) -> list[str]:
        """The results in words, one sentence each."""
        sentences = [self._against_the_last(), self._last_member()]
        if self.chosen < self.snapshots:
            sentences.append(
                f"Only the last {self.chosen} of {self.snapshots} snapshots are averaged: on {self.validation:,} "
                "validation examples the earlier ones did not help."
            )
        if self.paths:
            sentences.append(self._basin())
        if self.deep_ensemble_equivalent is not None:
            value, low, high = (
                "more than were given" if number == math.inf else f"{number:.2g}"
                for number in (getattr(self.deep_ensemble_equivalent, name) for name in ("value", "low", "high"))
            )
            sentences.append(f"Number of other runs whose average has the same log-loss: {value} [{low}, {high}].")
        return [*sentences, NO_POSTERIOR]

    def finding(self, run: str) -> Finding:
        """The comparison with the last snapshot as a finding.

        Args:
            run: The run's folder, as a command names it.
        """
        state = State.OK if self.gain.low > 0 else State.LOOK if self.gain.high < 0 else State.CANNOT_TELL
        return Finding(
            "ensemble",
            Issue.EXPLORATION,
            state,
            seen=self._against_the_last(),
            means=" ".join([self._last_member(), *([self._basin()] if self.paths else [])]),
            advice=f"gradiometer ensemble {run} --export ensemble.pt2" if state is State.OK else "",
            caveat=f"{NO_POSTERIOR} The intervals are over {self.scored:,} test examples, for this one run.",
            estimates=("gain",),
        )

    def _against_the_last(self) -> str:
        gain, error = self.gain, negative(self.baselines[0].difference["error"])
        verdict = "predicts better than" if gain.low > 0 else "shows no clear difference from"
        return (
            f"The average of {self.chosen} snapshots {'predicts worse than' if gain.high < 0 else verdict} the last "
            f"snapshot alone: its calibrated log-loss is {_lower_by(gain)}, and its error is {_lower_by(error)}."
        )

    def _last_member(self) -> str:
        gain = negative(self.sizes[self.chosen - 1].added["calibrated_nll"])
        name = ORDINALS[self.chosen - 1] if self.chosen <= len(ORDINALS) else f"{self.chosen}th"
        article = "an" if name.startswith("e") else "a"
        return f"With {article} {name} member the calibrated log-loss is {_lower_by(gain)}."

    def _basin(self) -> str:
        number, path = max(enumerate(self.paths, start=1), key=lambda numbered: numbered[1].barrier.value)
        barrier, error = path.barrier, self.sizes[0].scores["error"].value
        if all(each.barrier.high < error / 2 for each in self.paths):
            verdict = "The snapshots lie in one basin"
        elif barrier.low > error / 2:
            verdict = "The snapshots lie in different basins"
        else:
            verdict = "It is unclear if the snapshots lie in one basin"
        return (
            f"{verdict}: the highest error barrier to the last snapshot is {barrier}, from snapshot {number}, and its "
            f"error is {error:.3g}."
        )


def negative(estimate: Estimate) -> Estimate:
    """The estimate with the opposite sign."""
    return replace(estimate, value=-estimate.value, low=-estimate.high, high=-estimate.low)


def _lower_by(gain: Estimate) -> str:
    words = f"lower by {gain}" if gain.value >= 0 else f"higher by {negative(gain)}"
    return words if gain.low > 0 or gain.high < 0 else f"{words} (no clear difference)"
