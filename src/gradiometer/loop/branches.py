"""`Fork`: a state, a baseline, alternatives, replicates; and what came of every branch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gradiometer.errors import BadArgument
from gradiometer.loop.branch import BranchResult, Tail
from gradiometer.loop.changes.alternative import Alternative, GoOn
from gradiometer.loop.comparison.effects import Effect, effects_of, readout_name
from gradiometer.loop.comparison.ends import effects_at_end
from gradiometer.loop.comparison.rungs import SHORT
from gradiometer.loop.comparison.words import at_end, comparison, setting
from gradiometer.measurement.estimate import significant

GO_ON = GoOn()

# Number of replicates below which an interval is called wide.
FEW = 4


@dataclass(frozen=True, eq=False)
class Fork:
    """What would have happened: branches of several alternatives from one state, on common data.

    Args:
        step: Index of the first update of the branches, as training counts.
        alternatives: What was tried.
        replicates: Number of data orders, each common to all alternatives.
        horizon: Length of a branch in examples.
        results: The results of the branches.
        baseline: What the alternatives are compared with.
        tail: How the rate of every branch ends.
        seed: Seed of the data orders and random draws.
        left: Examples that are left in the training; None if that is not known.
        path: The folder in which it is kept; None if it is in memory only.
        notes: Sentences about the state that the branches start from.
        shorter: The results of shorter branches, as a race and `horizon="end"` have them.
    """

    step: int
    alternatives: tuple[Alternative, ...]
    replicates: int
    horizon: int
    results: tuple[BranchResult, ...]
    baseline: Alternative = GO_ON
    tail: Tail = "linear"
    seed: int = 0
    left: int | None = None
    path: Path | None = None
    notes: tuple[str, ...] = ()
    shorter: tuple[BranchResult, ...] = ()

    def __str__(self) -> str:
        """A sentence, and a row for each alternative: the readout at the end of its branches, its
        effect there, that at the end."""
        if not any(result.alternative == self.baseline.name for result in self.results):
            return f"Fork from step {self.step:,}: no branch of {self.baseline.name!r} is finished."
        sentence = " ".join([setting(self), comparison(self, self.effects()), at_end(self)]).strip()
        effects = {effect.alternative: effect for effect in self.effects()}
        ends = {effect.alternative: effect for effect in self.at_end()} if self.shows_end else {}
        readout = readout_name(self.results, None)
        heads = ["alternative", readout, "effect", "at the end of the training" if ends else ""]
        rows = [heads]
        for name in self.names:
            values = [
                result.readouts[readout].mean
                for result in self.of(name)
                if readout in result.readouts
            ]
            mean = significant(float(np.mean(values))) if values else "diverged"
            shown = [
                str(found[name].estimate) if name in found else "" for found in (effects, ends)
            ]
            rows.append([name, mean, *shown])
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = (
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            for row in rows
        )
        return "\n".join([sentence, "", *(line.rstrip() for line in lines)])

    __repr__ = __str__

    def of(self, alternative: Alternative | str) -> tuple[BranchResult, ...]:
        """The results of an alternative, or of the baseline, by replicate.

        Raises:
            BadArgument: It was not tried.
        """
        name = alternative if isinstance(alternative, str) else alternative.name
        found = [result for result in self.results if result.alternative == name]
        if not found:
            names = ", ".join(dict.fromkeys(result.alternative for result in self.results))
            raise BadArgument(f"`alternative` {name!r} was not tried. There are {names}.")
        return tuple(sorted(found, key=lambda result: result.replicate))

    def effects(self, readout: str | None = None, level: float = 0.9) -> tuple[Effect, ...]:
        """Each alternative minus the baseline, with intervals that cover all of them together: see
        `effects_of`.

        Args:
            readout: Name of the readout; by default "test_loss" if there is one, else the first.
            level: Probability that all intervals cover.
        """
        return effects_of(self.results, self.baseline.name, readout, level=level)

    def at_end(self, readout: str | None = None, level: float = 0.9) -> tuple[Effect, ...]:
        """Each alternative minus the baseline at the end of the training, by their trend: see
        `effects_at_end`.

        Unknown unless the branches reach half of what is left, and others half of that, as with
        `horizon="end"`.

        Args:
            readout: Name of the readout; by default "test_loss" if there is one, else the first.
            level: Probability that all intervals cover, as far as the order of the data goes.

        Raises:
            BadArgument: What is left of the training is not known.
        """
        if self.left is None:
            raise BadArgument(
                "`left` of this fork is not known: give `left`, such as left='4000 updates', to "
                "`Loop`."
            )
        results = (*self.shorter, *self.results)
        return effects_at_end(results, self.baseline.name, self.left, readout, level=level)

    @property
    def leaves_some(self) -> bool:
        """True if the branches end before the training does."""
        return self.left is not None and self.horizon < self.left

    @property
    def shows_end(self) -> bool:
        """True if the effects at the end of the training are known."""
        return (
            self.left is not None
            and bool(self.results)
            and any(each.estimate.tells for each in self.at_end())
        )

    def best(self, readout: str | None = None) -> str:
        """Name of the alternative, or of the baseline, with the best mean; those with a branch that
        diverged are last.

        The best of several means is not shown to be better than the others: see `effects`.

        Args:
            readout: Name of the readout; by default "test_loss" if there is one, else the first.
        """
        name = readout_name(self.results, readout)

        def mean(alternative: str) -> float:
            ends = [result.readouts.get(name) for result in self.of(alternative)]
            return float(
                np.mean(
                    [
                        np.inf if end is None else end.mean if end.lower_is_better else -end.mean
                        for end in ends
                    ]
                )
            )

        return min(self.names, key=mean)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the baseline and of the alternatives."""
        return (self.baseline.name, *(alternative.name for alternative in self.alternatives))

    @property
    def readouts(self) -> tuple[str, ...]:
        """The names of the readouts."""
        return tuple(dict.fromkeys(name for result in self.results for name in result.readouts))

    @property
    def curves(self) -> Mapping[str, tuple[tuple[int, float], ...]]:
        """For every alternative the examples so far and the mini-batch loss, as the mean over its
        replicates."""
        return {name: _mean_curve(self.of(name)) for name in self.names}

    @property
    def leans(self) -> bool:
        """True if the branches prefer small rates, because their rates stay constant or they are
        short."""
        return self.tail == "none" or (self.left is not None and self.horizon < SHORT * self.left)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What could make the comparison wrong."""
        found = list(self.notes)
        if self.shows_end:
            pass  # the interval at the end holds the horizon
        elif self.tail == "none":
            found.append(
                "The rates stay constant in all branches, which favours small rates at any length: "
                "an interval does not see that. Use tail='linear'."
            )
        elif self.left is not None and self.leans:
            found.append(
                f"The branches are {self.horizon / self.left:.0%} of what is left of the training: "
                f"below {SHORT:.0%} they lean to small rates."
            )
        if self.replicates < FEW:
            found.append(
                f"{self.replicates} replicates give wide intervals: {FEW} or more are better."
            )
        return tuple(found)


def _mean_curve(results: Sequence[BranchResult]) -> tuple[tuple[int, float], ...]:
    """The mean of curves that have the same places; those that diverged earlier end earlier."""
    by_place: dict[int, list[float]] = {}
    for result in results:
        for examples, loss in result.curve:
            by_place.setdefault(examples, []).append(loss)
    return tuple(
        (examples, float(np.mean(losses))) for examples, losses in sorted(by_place.items())
    )
