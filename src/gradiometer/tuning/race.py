"""The race: a rule of successive halving for lanes, each a training at one rate; the best lane goes
on as the training."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from gradiometer.loop.comparison.halving import Halving, Stage
from gradiometer.tuning.tuned import Tried

# Length of the first rung, as a share of the training. The second is twice as long, and the last at
# least twice as long as that, up to the half of the training in which the rate is kept. With a 12th
# 12 of 18 races of SGD and AdamW ended within 1 % of a grid of SGD, and with this it was 14.
FIRST = 1 / 16

# Octaves between the rates of the first rung. With one octave it was 12 of 18, with three 14.
APART = 2

# Octaves from the middle to the farthest rate. A rate that is so much lower than one that
# overshoots changes nothing in float32. Without it the search for a better rate has no end if all
# losses are equal.
FARTHEST = 24


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
    """The ends of lanes of one length.

    Args:
        share: Their length, as a share of the training.
        ends: What each of them had come to, by its loss on the same examples.
    """

    share: float
    ends: dict[Entry, Tried]

    @property
    def ranking(self) -> list[Entry]:
        """The lanes, the best first: by their losses, and of equal ones the lower rate. One that
        learns nothing more is behind all others, since they do."""
        return sorted(
            self.ends, key=lambda entry: (self.ends[entry].is_stuck, self.ends[entry].loss, entry)
        )

    def beyond(self, kind: int, octaves: int) -> Entry | None:
        """The rate of a kind that is so far beyond its best one, if the best one is the highest or
        the lowest that was tried; else None."""
        tried = [entry.octave for entry in self.ranking if entry.kind == kind]
        side = (tried[0] == max(tried)) - (tried[0] == min(tried))
        far = abs(tried[0]) >= FARTHEST
        return Entry(tried[0] + side * octaves, kind) if side and not far else None


# Trains lanes, which continue from their last step, to a share of the training. Returns what each
# has come to, by its loss at the mean of its last parameters.
Train = Callable[[Sequence[Entry], float], Sequence[Tried]]

Stages = Iterator[Stage[Entry]]


class LaneRace:
    """A race between rates of one or several kinds of lanes. Losses are only compared with each
    other.

    Args:
        train: Trains lanes.
        kinds: Number of optimizers or batch sizes.
        readout: The cost of reading the loss of a lane, as a share of the training.
        budget: The most that the race may cost besides the training, in units of the training. The
            steps of the winner are those of the training, and cost nothing.
        spent: What the start has cost.

    Attributes:
        halving: What was trained so far, and its cost, that of the start included.
    """

    def __init__(
        self, train: Train, kinds: int, readout: float, budget: float, spent: float = 0.0
    ) -> None:
        def ends(entries: Sequence[Entry], share: float) -> dict[Entry, Tried]:
            return dict(zip(entries, train(entries, share), strict=True))

        self.kinds = kinds
        self.halving = Halving(ends, budget, readout=readout, spent=spent)

    @property
    def rungs(self) -> list[LaneRung]:
        """The rungs so far, by growing length."""
        return [LaneRung(each.length, each.ends) for each in self.halving.rounds]

    @property
    def lane(self) -> float:
        """The cost of a lane of the first rung."""
        return FIRST + self.halving.readout

    @property
    def least(self) -> float:
        """The least that a race costs: three rates of each kind."""
        return 3 * self.kinds * self.lane

    def ahead(self, share: float) -> tuple[float, int, float]:
        """What comes after the lanes that are trained to this share now, if no more rates are
        tried: updates as a share of the training, lanes, and the share at which the training goes
        on."""
        if share > 2 * FIRST:
            return 0.0, 0, share
        lanes, cost = self._next_lanes() if share == FIRST else (0, 0.0)
        last = max(self._last_share(self.halving.rest - cost, 2 * FIRST), 2 * FIRST)
        return cost - lanes * self.halving.readout + 2 * (last - 2 * FIRST), lanes + 2, last

    def run(self) -> Entry:
        """Race to the end.

        Returns:
            The winner. If all lanes of the last rung have diverged, it is the best of the rung
            before.
        """
        self.halving.run(self._stages())
        for rung in reversed(self.rungs):
            best = rung.ranking[0]
            if math.isfinite(rung.ends[best].loss):
                return best
        return best

    def _stages(self) -> Stages:
        yield from self._first_rung()
        yield from self._second_rung()
        # The best two, as long as the budget pays.
        rung = self.rungs[-1]
        share = self._last_share(self.halving.rest, rung.share)
        if len(self.rungs) > 1 and share > rung.share:
            yield Stage(rung.ranking[:2], share)

    def _first_rung(self) -> Stages:
        """Three rates of each kind, and further ones on the side of the best until it is between
        two others."""
        kinds = range(self.kinds)
        yield Stage([Entry(octave, kind) for kind in kinds for octave in (-APART, 0, APART)], FIRST)
        rung = self.rungs[-1]
        for kind in kinds:
            # The two rungs to come cost as much as six lanes of this one.
            while (
                self.halving.rest >= 7 * self.lane
                and (further := rung.beyond(kind, APART)) is not None
            ):
                yield Stage([further], FIRST)

    def _second_rung(self) -> Stages:
        """The best two lanes and the neighbours of the best one, and a further rate if the best is
        between no two others then."""
        best, other, *_ = self.rungs[0].ranking
        lanes, cost = self._next_lanes()
        entries = [best, other, *(Entry(best.octave + step, best.kind) for step in (-1, 1))]
        if cost > self.halving.rest + 2 * FIRST:
            return
        yield Stage(entries[:lanes], 2 * FIRST)
        rung = self.rungs[-1]
        further = rung.beyond(rung.ranking[0].kind, 1)
        if further is not None and self._leaves_a_last_rung(2 * FIRST + self.halving.readout):
            yield Stage([further], 2 * FIRST)

    def _next_lanes(self) -> tuple[int, float]:
        """The number of lanes of the second rung, and their cost: two that go on, and as many new
        ones as leave enough for a last rung that is twice as long."""
        cost = 2 * self.lane
        for new in (2, 1, 0):
            whole = cost + new * (2 * FIRST + self.halving.readout)
            if self._leaves_a_last_rung(whole):
                break
        return 2 + new, whole

    def _leaves_a_last_rung(self, cost: float) -> bool:
        """True if after this cost two lanes can become twice as long as in the second rung."""
        return self._last_share(self.halving.rest - cost, 2 * FIRST) >= 4 * FIRST

    def _last_share(self, left: float, share: float) -> float:
        """The share to which two lanes can go on from this one, if so much is left. The steps of
        one are those of the training."""
        return min(left + 2 * (share - self.halving.readout), 0.5)
