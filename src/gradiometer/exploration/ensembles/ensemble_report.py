"""The report on a run's snapshots as an ensemble, in numbers: kept in the run, and read without
torch."""

from dataclasses import dataclass
from typing import Any, ClassVar

from gradiometer.arguments import check_whole
from gradiometer.errors import BadArgument
from gradiometer.exploration.ensembles.scores import ReliabilityBin
from gradiometer.measurement.artifact import Artifact
from gradiometer.measurement.estimate import Estimate, negative
from gradiometer.measurement.finding import Doubt, Finding, Issue, State

# The names of the scores for readers, in the order of the table.
SCORES = {
    "error": "error, share of examples",
    "nll": "log-loss",
    "calibrated_nll": "log-loss, calibrated",
    "brier": "Brier score",
    "calibration_error": "calibration error, debiased",
}


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
        barrier: The largest excess of the error over the straight line between the errors of the
            two ends.
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
        disagreement_over_error: How often two snapshots predict different classes, over how often
            one is wrong.
        correlations: Correlation of the outputs of every two snapshots, by their numbers, such as
            "1-2".
        paths: The path from each earlier snapshot, in order, to the last one; empty if not
            computed.
        reliability: The reliability diagram of the chosen ensemble, uncalibrated, least confident
            bin first.
        deep_ensemble_equivalent: The number of other runs whose ensemble is as good; None if fewer
            than two were given.
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
        check_whole("snapshots", self.snapshots, 2)
        check_whole("chosen", self.chosen, 2)
        if not self.chosen <= self.snapshots == len(self.sizes):
            raise BadArgument(
                f"`chosen` must be at most the number of `sizes`, one for each of {self.snapshots} "
                f"snapshots, got {self.chosen} and {len(self.sizes)}."
            )
        if not self.baselines:
            raise BadArgument("`baselines` must begin with the last snapshot, got none.")
        # What the finding and the page will ask for.
        compared = (
            self.baselines[0].difference,
            self.sizes[self.chosen - 1].added,
            self.sizes[0].scores,
        )
        for found, name in zip(
            compared, ("calibrated_nll", "calibrated_nll", "error"), strict=True
        ):
            if name not in found:
                raise BadArgument(
                    f"`sizes` and `baselines` must have the score {name}, and one has not."
                )

    @property
    def scores(self) -> dict[str, Estimate]:
        """The scores of the chosen ensemble."""
        return self.sizes[self.chosen - 1].scores

    @property
    def gain(self) -> Estimate:
        """Calibrated log-loss of the last snapshot less that of the ensemble, paired by example."""
        return negative(self.baselines[0].difference["calibrated_nll"])

    def finding(self, run: str) -> Finding:
        """The comparison with the last snapshot as a finding.

        Args:
            run: The run's folder, as a command names it.
        """
        gain = self.gain
        if gain.low > 0:
            claim, state = "ensemble_better", State.OK
        elif gain.high < 0:
            claim, state = "ensemble_worse", State.LOOK
        else:
            claim, state = "ensemble_unclear", State.CANNOT_TELL
        facts = {
            "run": run,
            "snapshots": self.snapshots,
            "chosen": self.chosen,
            "validation": self.validation,
            "gain_in_error": negative(self.baselines[0].difference["error"]),
            "gain_of_last_member": negative(self.sizes[self.chosen - 1].added["calibrated_nll"]),
            "basin": self._basin() if self.paths else None,
            "deep_ensemble_equivalent": self.deep_ensemble_equivalent,
        }
        return Finding(
            "ensemble",
            Issue.EXPLORATION,
            claim,
            state,
            {"gain": gain},
            facts,
            doubts=(Doubt("cheap_ensemble", {"scored": self.scored}),),
        )

    def _basin(self) -> dict[str, Any]:
        """If the snapshots lie in one basin, with the highest barrier of the error on the way to
        the last one."""
        number, path = max(
            enumerate(self.paths, start=1), key=lambda numbered: numbered[1].barrier.value
        )
        barrier, error = path.barrier, self.sizes[0].scores["error"].value
        # Barriers that are neither all below half of the error nor one above it show nothing.
        one: bool | None = None
        if all(each.barrier.high < error / 2 for each in self.paths):
            one = True
        elif barrier.low > error / 2:
            one = False
        return {"is_one": one, "barrier": barrier, "snapshot": number, "error": error}
