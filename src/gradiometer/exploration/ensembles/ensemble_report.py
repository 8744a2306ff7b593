"""What the snapshots of a run are worth together, in numbers and in words: kept in the run, and read without torch."""

import math
from dataclasses import dataclass, replace
from typing import ClassVar

from gradiometer.measurement.artifact import Artifact
from gradiometer.measurement.estimate import Estimate
from gradiometer.measurement.finding import Finding, Issue, State

ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")
NO_POSTERIOR = (
    "A cheap ensemble, not a posterior: the members are few, stand where the schedule put them, and their spread is "
    "no credible interval."
)


@dataclass(frozen=True)
class Growth:
    """The last m snapshots averaged: their scores, and these less those of the last m − 1, paired."""

    members: int
    scores: dict[str, Estimate]
    added: dict[str, Estimate]


@dataclass(frozen=True)
class Rival:
    """Another predictor: its scores, and the ensemble's less its, paired."""

    name: str
    scores: dict[str, Estimate]
    difference: dict[str, Estimate]


@dataclass(frozen=True)
class Pair:
    """How alike the outputs of two snapshots are, by their numbers from 1."""

    snapshots: tuple[int, int]
    correlation: Estimate


@dataclass(frozen=True)
class Way:
    """The straight way from a snapshot to the last one: the errors at each share of it, and the barrier."""

    snapshot: int
    barrier: Estimate
    shares: tuple[float, ...]
    errors: tuple[Estimate, ...]


@dataclass(frozen=True)
class Confidence:
    """A bin of the reliability diagram: the mean confidence, and how often it was right."""

    confidence: float
    accuracy: Estimate
    examples: int


@dataclass(frozen=True)
class EnsembleReport(Artifact):
    """What the snapshots of a run are worth together.

    Args:
        snapshots: M, how many there are.
        chosen: m, how many of the last ones validation examples call for.
        temperature: τ of their average, from the validation examples.
        scored, validation: How many test examples are scored, and how many chose m and τ.
        growing: For m = 1, 2, …, M.
        against: The last snapshot, the average of the weights, and other runs.
        disagreement_over_error: How often two snapshots predict another class, over how often one is wrong.
        correlations: Of the outputs, for every pair.
        barriers: From each snapshot to the last; empty where they were not looked for.
        reliability: The chosen ensemble's, uncalibrated, least confident first.
        deep_ensemble_equivalent: How many of the other runs it is worth; None where fewer than two were given.
    """

    files: ClassVar[str] = "ensemble.json"

    snapshots: int
    chosen: int
    temperature: float
    scored: int
    validation: int
    growing: tuple[Growth, ...]
    against: tuple[Rival, ...]
    disagreement_over_error: Estimate
    correlations: tuple[Pair, ...]
    barriers: tuple[Way, ...]
    reliability: tuple[Confidence, ...]
    deep_ensemble_equivalent: Estimate | None = None

    @property
    def scores(self) -> dict[str, Estimate]:
        """Of the ensemble that validation examples call for."""
        return self.growing[self.chosen - 1].scores

    @property
    def sentences(self) -> list[str]:
        """What the numbers say, one thing at a time."""
        said = [self._against_the_last(), added_sentence(self.growing[self.chosen - 1])]
        if self.chosen < self.snapshots:
            said.append(
                f"Of {self.snapshots} snapshots the last {self.chosen} are taken, as {self.validation:,} validation "
                "examples ask: the earlier ones did not help there."
            )
        if self.barriers:
            said.append(self._basin())
        if self.deep_ensemble_equivalent is not None:
            said.append(_equivalent(self.deep_ensemble_equivalent))
        return [*said, NO_POSTERIOR]

    @property
    def gain(self) -> Estimate:
        """The calibrated log-loss that the ensemble saves against the last snapshot alone."""
        return negative(self.against[0].difference["calibrated_nll"])

    def finding(self, run: str) -> Finding:
        """Whether there is an ensemble in this run.

        Args:
            run: Its folder, as it is named in a command.
        """
        state = State.OK if self.gain.low > 0 else State.LOOK if self.gain.high < 0 else State.CANNOT_TELL
        basin = f" {self._basin()}" if self.barriers else ""
        return Finding(
            "ensemble",
            Issue.EXPLORATION,
            state,
            seen=self._against_the_last(),
            means=f"{added_sentence(self.growing[self.chosen - 1])}{basin}",
            advice=f"gradiometer ensemble {run} --export ensemble.pt2" if state is State.OK else "",
            caveat=f"{NO_POSTERIOR} The intervals are over {self.scored:,} test examples, for this one run.",
            estimates=("gain",),
        )

    def _against_the_last(self) -> str:
        gain, error = self.gain, negative(self.against[0].difference["error"])
        if gain.low > 0:
            verdict = f"is better than the last of them alone: by {gain} of calibrated log-loss"
        elif gain.high < 0:
            verdict = f"is worse than the last of them alone: by {negative(gain)} of calibrated log-loss"
        else:
            verdict = f"cannot be told from the last of them alone: it saves {gain} of calibrated log-loss"
        lower = error.value >= 0
        doubt = "" if error.low > 0 or error.high < 0 else ", which cannot be told from nothing"
        errs = f"its error is {'lower' if lower else 'higher'} by {error if lower else negative(error)}{doubt}"
        return f"The ensemble of {self.chosen} snapshots {verdict}; {errs}."

    def _basin(self) -> str:
        """Whether there is a hill on the way from the snapshots to the last one."""
        highest = max(self.barriers, key=lambda way: way.barrier.value)
        barrier, error = highest.barrier, self.growing[0].scores["error"].value
        words = f"the highest barrier to the last one is {barrier} of error, from snapshot {highest.snapshot}"
        against = f"against an error of {error:.3g}"
        if all(way.barrier.high < error / 2 for way in self.barriers):
            return f"The snapshots did not leave one basin: {words}, {against}."
        if barrier.low > error / 2:
            return f"The snapshots lie in different basins: {words}, {against}."
        return f"Whether the snapshots share a basin cannot be told: {words}, {against}."


def added_sentence(size: Growth) -> str:
    """What the last member taken adds, in calibrated log-loss."""
    gain = negative(size.added["calibrated_nll"])
    name = ORDINALS[size.members - 1] if size.members <= len(ORDINALS) else f"{size.members}th"
    verdict = "" if gain.low > 0 or gain.high < 0 else ", which cannot be told from nothing"
    article = "An" if name.startswith("e") else "A"
    return f"{article} {name} member adds {gain} of calibrated log-loss{verdict}."


def negative(estimate: Estimate) -> Estimate:
    """The same with its sign turned: what is gained where less is better."""
    return replace(estimate, value=-estimate.value, low=-estimate.high, high=-estimate.low)


def _equivalent(worth: Estimate) -> str:
    value, low, high = (
        "more than were given" if number == math.inf else f"{number:.2g}"
        for number in (worth.value, worth.low, worth.high)
    )
    return f"In calibrated log-loss it is worth this many of the other runs together: {value} [{low}, {high}]."
