"""`BudgetSplit`: the best split of a budget between the number and the length of an ensemble's members."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool
from torch import nn

from gradiometer.exploration.ensembles.calibration import Labels, LogProbabilities
from gradiometer.exploration.ensembles.ensemble import Ensemble
from gradiometer.exploration.ensembles.mixture import mixture_weights
from gradiometer.exploration.ensembles.scores import Predictions, averaged, differences, scores
from gradiometer.exploration.ensembles.snapshots import Snapshot
from gradiometer.exploration.ensembles.split_race import Lane, Race
from gradiometer.measurement.estimate import Estimate, counted

NO_WEIGHT = 1e-3
"""A weight that counts as none."""


@dataclass(frozen=True)
class Split:
    """A split of the budget that was tried.

    Args:
        members: Number of members.
        steps: Steps of each.
        trained: Number of members that were trained.
        forecast: The score of the whole ensemble, from the members that were trained.
        difference: That forecast less the one of the chosen split, paired by example; None for the chosen one.
    """

    members: int
    steps: int
    trained: int
    forecast: Estimate
    difference: Estimate | None

    @property
    def words(self) -> str:
        """Number and length, such as "4 runs of 175 steps"."""
        return f"{counted(self.members, 'run')} of {counted(self.steps, 'step')}"


@dataclass(frozen=True, eq=False)
class BudgetSplit:
    """The best of several splits of a budget, and all that the race between them has trained.

    Args:
        steps: The budget, in steps of training.
        score: The score that was compared.
        splits: The splits that were tried, by number of members.
        untried: Numbers of members that were not expected to win.
        chosen: The best split, all of whose members were trained.
        scores: The scores of its ensemble on the examples that did not choose.
        together: The scores of all trained members together, weighted, on the same examples.
        gain: The scores of the chosen ensemble less these, paired by example: above zero, all together are better.
        cost: What the race has trained, in units of the budget. The chosen ensemble is 1 of it.
        choosing: Number of held-out examples that chose the split, the weights and the temperature.
        scored: Number of the other held-out examples.
        snapshots: All trained members.
        weights: The weight of each of them.
        temperature: The temperature of all of them together.
        model: Makes a new model.
    """

    steps: int
    score: str
    splits: tuple[Split, ...]
    untried: tuple[int, ...]
    chosen: Split
    scores: Mapping[str, Estimate]
    together: Mapping[str, Estimate]
    gain: Mapping[str, Estimate]
    cost: float
    choosing: int
    scored: int
    snapshots: tuple[Snapshot, ...]
    weights: tuple[float, ...]
    temperature: float
    model: Callable[[], nn.Module]

    @property
    def ensemble(self) -> Ensemble:
        """All trained members together, weighted and calibrated, in eval mode."""
        return Ensemble.of_snapshots(
            self.snapshots, self.model(), weights=list(self.weights), temperature=self.temperature
        )

    @property
    def rivals(self) -> tuple[Split, ...]:
        """The other splits that are not shown to be worse than the chosen one."""
        return tuple(split for split in self.splits if split.difference is not None and not split.difference.low > 0)

    @property
    def sentences(self) -> list[str]:
        """What was chosen, what it gives, and what all members together give, one sentence each."""
        found = [
            f"A budget of {counted(self.steps, 'step')} is best spent on {self.chosen.words}: error "
            f"{_percent(self.scores['error'])} on {self.scored:,} examples that did not choose."
        ]
        if self.rivals:
            found.append(f"Not shown to be worse: {', '.join(split.words for split in self.rivals)}.")
        if self.untried:
            found.append(f"Not tried, since not expected to win: {_runs(self.untried)}.")
        return [
            *found,
            f"The race trained {len(self.snapshots)} networks for {self.cost:.3g} times the budget. {self._all()}",
        ]

    def _all(self) -> str:
        """What all members together give."""
        pairs = zip(self.snapshots, self.weights, strict=True)
        if sum(weight for snapshot, weight in pairs if snapshot.step != self.chosen.steps) < NO_WEIGHT:
            return "The others would not improve the chosen split: their weight in a common average is 0."
        return (
            f"All of them together, weighted, have an error of {_percent(self.together['error'])}; their calibrated "
            f"log-loss is {_lower(self.gain['calibrated_nll'])}."
        )

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON types, without the members."""
        left_out = ("snapshots", "model", "splits", "chosen", "scores", "together", "gain")
        plain = {name: value for name, value in vars(self).items() if name not in left_out}
        return plain | {
            "splits": [asdict(split) for split in self.splits],
            "chosen": asdict(self.chosen),
            **{
                name: {one: estimate.to_dict() for one, estimate in getattr(self, name).items()}
                for name in ("scores", "together", "gain")
            },
            "sentences": self.sentences,
        }


def judged(
    race: Race,
    best: Lane,
    *,
    steps: int,
    untried: Sequence[int],
    snapshots: Sequence[Sequence[Snapshot]],
    model: Callable[[], nn.Module],
) -> BudgetSplit:
    """The result of a race.

    Args:
        race: The race.
        best: Its best lane.
        steps: The budget.
        untried: Numbers of members of the splits that it did not try.
        snapshots: The members of each lane.
        model: Makes a new model.
    """
    splits = {lane.members: _split(race, lane, best) for lane in sorted(race.lanes, key=lambda lane: lane.members)}
    labels, choosing = race.labels, race.choosing
    chosen = Predictions.split(averaged(best.said), labels, choosing)
    shares = _shares(race.lanes, labels, choosing)
    weights = [share / len(lane.said) for share, lane in zip(shares, race.lanes, strict=True) for _ in lane.said]
    together = Predictions.split(
        averaged([said for lane in race.lanes for said in lane.said], weights), labels, choosing
    )
    return BudgetSplit(
        steps=steps,
        score=race.score,
        splits=tuple(splits.values()),
        untried=tuple(untried),
        chosen=splits[best.members],
        scores=scores(chosen, race.level),
        together=scores(together, race.level),
        gain=differences(chosen, together, race.level),
        cost=sum(len(lane.said) * lane.steps for lane in race.lanes) / steps,
        choosing=int(choosing.sum()),
        scored=int((~choosing).sum()),
        snapshots=tuple(snapshot for of_lane in snapshots for snapshot in of_lane),
        weights=tuple(weights),
        temperature=together.temperature,
        model=model,
    )


def _split(race: Race, lane: Lane, best: Lane) -> Split:
    difference = None if lane is best else race.difference(lane, best)
    return Split(lane.members, lane.steps, len(lane.said), race.forecast(lane), difference)


def _shares(lanes: Sequence[Lane], labels: Labels, choosing: Bool[np.ndarray, " examples"]) -> list[float]:
    """The weight of each lane: its members have equal ones."""
    means: list[LogProbabilities] = [averaged([said[choosing] for said in lane.said]) for lane in lanes]
    return [float(share) for share in mixture_weights(means, labels[choosing])]


def _percent(share: Estimate) -> str:
    value, low, high = (f"{100 * end:.3g}" for end in (share.value, share.low, share.high))
    return f"{value} [{low}, {high}] %"


def _runs(counts: Sequence[int]) -> str:
    return ", ".join(counted(count, "run") for count in counts)


def _lower(gain: Estimate) -> str:
    """How much lower a score is than another one, or that it is not."""
    if gain.low > 0:
        return f"lower by {gain}"
    return "higher" if gain.high < 0 else f"not shown to be lower: the difference is {gain}"
