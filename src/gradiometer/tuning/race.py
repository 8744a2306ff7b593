"""The race: successive halving among lanes, each a training at one rate, and the best lane goes on
as the training."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from gradiometer.loop.readout import Readout
from gradiometer.measurement.uncertainty.means import mean

# Length of the first rung, as a share of the training. The second is twice as long, and the last at
# least twice as long as that, up to the half of the training in which the rate is kept.
FIRST = 1 / 16

# Octaves between the rates of the first rung. In a bank of trainings of twelve problems under SGD, the
# worst choice ended 12 % above the best rate; with one octave or three it ended 49 and 40 % above it.
APART = 2

# The rates of the second rung, in octaves above the best one of the first. Short lanes lean to high
# rates, at which longer ones collapse: where the budget pays for three rates only and the one two
# octaves below was not among them, a training collapsed.
AROUND = (0, -1, -2, 1)

# Length of the branch that judges a lane from the second rung on, as a share of the lane: its rate
# goes to zero. At a constant rate the loss is raised by noise, the more the higher the rate. With
# branches of half of the lane, shorter lanes for the same budget, 4 of the twelve choices ended
# within 1 % of the best rate instead of 7.
COOLED = 1 / 4


@dataclass(frozen=True, order=True)
class Entry:
    """A lane by what it tries.

    Args:
        octave: Its rate, in octaves above that in the middle of the first rung.
        kind: Number of its optimizer or batch size.
    """

    octave: int
    kind: int = 0


@dataclass(frozen=True)
class LaneRung:
    """Where lanes of one length have ended.

    Args:
        share: Their length, as a share of the training.
        ends: The training loss of each, on the same examples; inf if it diverged.
        higher: True if of lanes that these examples cannot tell apart the highest rate is the best.
            In short lanes low rates look equally good wherever little has been learnt.
    """

    share: float
    ends: Mapping[Entry, Readout]
    higher: bool = False

    def ranking(self, kind: int | None = None) -> list[Entry]:
        """The lanes of a kind, or all, the best first: by their loss, and of equal losses the lower
        rate."""
        entries = [entry for entry in self.ends if kind is None or entry.kind == kind]
        entries.sort(key=lambda entry: (self.ends[entry].mean, entry))
        lowest = entries[0]
        if not self.higher or math.isinf(self.ends[lowest].mean):
            return entries
        best = self.ends[lowest]
        equal = [
            entry
            for entry in entries
            if entry.kind == lowest.kind and (behind(self.ends[entry], best) or 0.0) <= 0
        ]
        equal.sort(reverse=True)
        return equal + [entry for entry in entries if entry not in equal]

    def edge(self, kind: int) -> int:
        """1 if the best rate of a kind is the highest that was tried, −1 if it is the lowest, else
        0."""
        octaves = [entry.octave for entry in self.ranking(kind)]
        return (octaves[0] == max(octaves)) - (octaves[0] == min(octaves))


def behind(one: Readout, other: Readout) -> float | None:
    """By how much a loss is shown to be above another one, at 90 %, on the same examples; None if
    they are the same."""
    if one.mean == other.mean:
        return None
    if one.values is None or other.values is None or not math.isfinite(one.mean - other.mean):
        return one.mean - other.mean
    gaps = one.values.astype(np.float64) - other.values.astype(np.float64)
    return mean(gaps, batches=len(gaps)).low if len(gaps) > 3 else None


# Trains lanes, which continue from their last step, to a share of the training, and branches of another
# share of it which cool them. Returns the training loss of each.
Train = Callable[[Sequence[Entry], float, float], Sequence[Readout]]


@dataclass
class LaneRace:
    """A race between rates of one or several kinds of lanes. Losses are only compared with each
    other.

    Args:
        train: Trains lanes.
        kinds: Number of optimizers or batch sizes.
        readout: What reading the loss of a lane costs, as a share of the training.
        left: What the race may cost besides the training, in units of the training. The steps of
            the winner are those of the training, and cost nothing.
    """

    train: Train
    kinds: int
    readout: float
    left: float
    rungs: list[LaneRung] = field(default_factory=list)
    reached: dict[Entry, float] = field(default_factory=dict)

    @property
    def least(self) -> float:
        """The least that a race costs: three rates of each kind."""
        return 3 * self.kinds * (FIRST + self.readout)

    def run(self) -> Entry:
        """Race to the end.

        Returns:
            The winner. If all lanes of the last rung have diverged, it is the best of the rung
            before.
        """
        self._first_rung()
        self._second_rung()
        self._last_rung()
        for rung in reversed(self.rungs):
            best = rung.ranking()[0]
            if math.isfinite(rung.ends[best].mean):
                return best
        return best

    def _first_rung(self) -> None:
        """Three rates of each kind, and further ones on the side of the best until it is between
        two others."""
        ends = self._go(
            [Entry(octave, kind) for kind in range(self.kinds) for octave in (-APART, 0, APART)],
            FIRST,
            0.0,
        )
        self.rungs.append(LaneRung(FIRST, ends, higher=True))
        for kind in range(self.kinds):
            while edge := self.rungs[0].edge(kind):
                octaves = [entry.octave for entry in ends if entry.kind == kind]
                further = Entry((max(octaves) if edge > 0 else min(octaves)) + edge * APART, kind)
                pair = [Entry(further.octave + octave, kind) for octave in (-1, 1)]
                if self._last_share(pair, 2 * FIRST) - FIRST - self.readout < 2 * FIRST:
                    break
                ends |= self._go([further], FIRST, 0.0)

    def _second_rung(self) -> None:
        """Rates around the best one, as many as leave enough for a last rung that is
        twice as long."""
        share = 2 * FIRST
        best = self.rungs[0].ranking()[0]
        entries = [Entry(best.octave + octave, best.kind) for octave in AROUND]
        while len(entries) > 2 and self._last_share(entries, share) < 2 * share:
            entries.pop()
        if self._cost(entries, share, COOLED * share) <= self.left + share:
            self.rungs.append(LaneRung(share, self._go(entries, share, COOLED * share)))

    def _last_rung(self) -> None:
        """The best two, as long as the budget pays for."""
        rung = self.rungs[-1]
        pair = rung.ranking()[:2]
        share = min(self._last_share([], rung.share), 0.5)
        if len(self.rungs) > 1 and share > rung.share:
            self.rungs.append(LaneRung(share, self._go(pair, share, COOLED * share)))

    def _last_share(self, entries: Sequence[Entry], share: float) -> float:
        """The share to which two lanes of the second rung can go on, after these entries of it.

        They and their branches cost what is left then. The steps of one are those of the training.
        """
        left = self.left - self._cost(entries, share, COOLED * share)
        return (left + 2 * share - 2 * self.readout) / (1 + 2 * COOLED)

    def _cost(self, entries: Sequence[Entry], share: float, cooled: float) -> float:
        """What it costs to train lanes to a share of the training, and to judge them."""
        costs = [share - self.reached.get(entry, 0.0) + cooled + self.readout for entry in entries]
        return math.fsum(costs)

    def _go(self, entries: Sequence[Entry], share: float, cooled: float) -> dict[Entry, Readout]:
        self.left -= self._cost(entries, share, cooled)
        ends = self.train(entries, share, cooled)
        self.reached |= dict.fromkeys(entries, share)
        return dict(zip(entries, ends, strict=True))
