"""The race: it finds the best rate where that is known, within its budget, and by differences of
losses alone."""

import math
from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
import pytest
from cases.quadratic_law import QuadraticLaw

from gradiometer.loop.readout import Readout
from gradiometer.tuning.race import FIRST, Entry, LaneRace
from gradiometer.tuning.tuned import Tried
from gradiometer_lab.closed_forms import Quadratic

CURVATURES = np.geomspace(0.05, 1, 6)
QUADRATIC = Quadratic(np.diag(CURVATURES), np.diag(CURVATURES))
START, BATCH, STEPS = np.full(6, 2.0), 8, 320
MIDDLE = 0.01
"""The rate at octave 0."""


def exact(rate: float, held: int, cooled: int = 0) -> float:
    """The expected loss after updates at a rate, and more while it falls linearly to zero."""
    rates = rate * np.concatenate([np.ones(held), 1 - (np.arange(cooled) + 0.5) / max(cooled, 1)])
    with np.errstate(over="ignore", invalid="ignore"):
        law = QuadraticLaw.at(QUADRATIC, START).after(
            rates, batch_size=BATCH, momentum=0.9, nesterov=True
        )
        loss = law.excess_loss + len(CURVATURES) / 2
        return loss if math.isfinite(loss) else math.inf


@cache
def best_exact() -> float:
    return min(exact(rate, STEPS // 2, STEPS // 2) for rate in np.geomspace(1e-3, 0.5, 25))


class LaneEnd(Tried):
    """Where a lane was, as a race sees it."""

    is_stuck = False
    loss = 0.0

    def __init__(self, is_stuck: bool, loss: float) -> None:
        vars(self).update(is_stuck=is_stuck, loss=loss)


def end(loss: float) -> LaneEnd:
    """That of a lane which still learns, unless it diverged."""
    return LaneEnd(not math.isfinite(loss), loss)


def race(loss_of: Callable[[Entry, float], float], left: float = 1.0, kinds: int = 1) -> LaneRace:
    """A race whose lanes end at these losses of entry and share."""

    def train(entries: Sequence[Entry], share: float) -> list[LaneEnd]:
        return [end(loss_of(entry, share)) for entry in entries]

    return LaneRace(train, kinds, readout=0.01, budget=left)


@pytest.mark.parametrize("off", [-9, -4, 0, 3])
def test_with_exact_losses_the_winner_ends_close_to_the_best_rate(off: int) -> None:
    """Wherever the race starts: `off` octaves away from a good rate."""

    def loss_of(entry: Entry, share: float) -> float:
        rate = MIDDLE * 2.0 ** (off + entry.octave)
        return exact(rate, int(share * STEPS))

    winner = race(loss_of, left=1.3).run()
    loss = exact(MIDDLE * 2.0 ** (off + winner.octave), STEPS // 2, STEPS // 2)
    assert loss < 1.02 * best_exact()


@pytest.mark.parametrize("left", [0.25, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("kinds", [1, 2, 3])
def test_what_is_trained_costs_no_more_than_the_budget_and_the_winners_steps(
    left: float, kinds: int
) -> None:
    trained: dict[Entry, float] = {}
    cost = 0.0

    def loss_of(entry: Entry, share: float) -> float:
        nonlocal cost
        cost += share - trained.get(entry, 0.0) + 0.01
        trained[entry] = share
        return 1 + abs(entry.octave - 1) / 10 + entry.kind

    made = race(loss_of, left, kinds)
    if made.least > left:
        return
    winner = made.run()
    assert cost <= left + trained[winner] + 1e-9
    assert made.halving.spent == pytest.approx(cost)
    assert trained[winner] <= 0.5


@pytest.mark.parametrize(("left", "kinds"), [(0.5, 1), (1.0, 1), (1.0, 2), (2.0, 2)])
def test_what_is_ahead_is_what_comes_if_no_more_rates_are_tried(left: float, kinds: int) -> None:
    said: list[tuple[float, int, float]] = []
    trained: list[tuple[float, int]] = []

    def train(entries: Sequence[Entry], share: float) -> list[LaneEnd]:
        said.append(made.ahead(share))
        trained.append(
            (sum(share - made.halving.reached.get(one, 0.0) for one in entries), len(entries))
        )
        return [end(1 + one.octave**2 / 10 + one.kind) for one in entries]

    made = LaneRace(train, kinds, readout=0.01, budget=left)
    last = made.halving.reached[made.run()]
    for place, (updates, lanes, share) in enumerate(said):
        assert updates == pytest.approx(sum(each for each, _ in trained[place + 1 :]))
        assert (lanes, share) == (sum(one for _, one in trained[place + 1 :]), pytest.approx(last))


def test_lanes_go_on_and_are_not_trained_again() -> None:
    shares: dict[Entry, list[float]] = {}

    def loss_of(entry: Entry, share: float) -> float:
        shares.setdefault(entry, []).append(share)
        return 1 + entry.octave**2 / 10

    made = race(loss_of)
    assert made.run() == Entry(0)
    assert shares[Entry(0)][:2] == [FIRST, 2 * FIRST] and shares[Entry(0)][2] >= 4 * FIRST
    assert shares[Entry(-2)] == [FIRST, 2 * FIRST] and shares[Entry(2)] == [FIRST]
    assert [len(rung.ends) for rung in made.rungs] == [3, 4, 2]


@pytest.mark.parametrize("offset", [-20.0, 20.0])
@pytest.mark.parametrize("scale", [0.125, 8.0])
def test_a_constant_in_the_loss_and_its_unit_change_no_choice(offset: float, scale: float) -> None:
    """A law for every comparison that a race makes, with losses for every example and
    with noise."""
    generator = np.random.default_rng(0)
    noise = generator.normal(size=(40, 64))

    def winner(place: int, scale: float, offset: float) -> tuple[Entry, list[list[Entry]]]:
        rates = np.random.default_rng(place)

        def train(entries: Sequence[Entry], share: float) -> list[LaneEnd]:
            values = [
                0.05 * (entry.octave - 2 + share) ** 2
                + noise[entry.octave + 20] * 0.3
                + rates.normal(size=64) * 0.1
                for entry in entries
            ]
            return [end(Readout.of(scale * each + offset).mean) for each in values]

        made = LaneRace(train, 1, readout=0.01, budget=1.0)
        return made.run(), [rung.ranking for rung in made.rungs]

    for place in range(10):
        assert winner(place, scale, offset) == winner(place, 1.0, 0.0)


def test_lanes_that_diverge_lose_and_lower_rates_are_tried() -> None:
    def loss_of(entry: Entry, share: float) -> float:
        return math.inf if entry.octave > -5 else 1.0 + (entry.octave + 7) ** 2 / 100

    assert -9 <= race(loss_of, left=1.5).run().octave <= -5


def test_lanes_that_are_stuck_are_behind_and_lower_rates_are_tried() -> None:
    """They are ahead by their losses, at every length. The best rate is 16 times lower than the
    middle."""

    def train(entries: Sequence[Entry], share: float) -> list[LaneEnd]:
        return [
            LaneEnd(one.octave >= -1, 0.5 if one.octave >= -1 else 1 + (one.octave + 4) ** 2 / 10)
            for one in entries
        ]

    made = LaneRace(train, 1, readout=0.01, budget=1.0)
    assert made.run() == Entry(-4)


def test_if_all_lanes_are_stuck_the_lowest_loss_wins() -> None:
    def train(entries: Sequence[Entry], share: float) -> list[LaneEnd]:
        return [LaneEnd(True, 1 + (one.octave - 1) ** 2 / 10) for one in entries]

    assert LaneRace(train, 1, readout=0.01, budget=1.0).run() == Entry(1)


@pytest.mark.parametrize(("left", "lanes"), [(1.0, [3, 5, 2]), (0.7, [3, 4, 2])])
def test_a_further_rate_is_tried_beside_the_best_of_the_second_rung(
    left: float, lanes: list[int]
) -> None:
    """If that is the lowest there, and if a last rung of twice the length can still be paid."""

    def loss_of(entry: Entry, share: float) -> float:
        best = 0.1 if share == FIRST else -2.0
        return 1 + (entry.octave - best) ** 2 / 10

    made = race(loss_of, left=left)
    winner = made.run()
    assert [len(rung.ends) for rung in made.rungs] == lanes
    assert winner == Entry(-2 if len(made.rungs[1].ends) == 5 else -1)


def test_if_both_of_the_last_rung_diverge_the_best_of_the_rung_before_wins() -> None:
    def loss_of(entry: Entry, share: float) -> float:
        return math.inf if share > 2 * FIRST else 1 + entry.octave**2 / 10

    made = race(loss_of)
    assert made.run() == Entry(0) and len(made.rungs) == 3


def test_a_kind_that_learns_slowly_at_first_wins_if_it_is_better_in_the_second_rung() -> None:
    """The second rung has the best lane, its neighbours, and the best of the others of any kind."""

    def loss_of(entry: Entry, share: float) -> float:
        slow = 0.3 if share == FIRST else -0.3
        return 1 + entry.octave**2 / 10 + (slow if entry.kind == 1 else 0.0)

    made = race(loss_of, kinds=2)
    assert made.run() == Entry(0, 1)
    assert {entry.kind for entry in made.rungs[0].ends} == {0, 1}
    assert made.rungs[1].ends.keys() == {Entry(0), Entry(-1), Entry(1), Entry(0, 1)}


@pytest.mark.parametrize("slope", [0, 1, -1])
def test_a_search_for_a_better_rate_ends_where_rates_differ_from_none_in_nothing(
    slope: int,
) -> None:
    """Also with all losses alike, of which the lowest rate is the best, and with any budget."""
    tried: set[Entry] = set()

    def loss_of(entry: Entry, share: float) -> float:
        assert len(tried) < 100
        tried.add(entry)
        return 1.0 + 0.01 * slope * entry.octave

    made = race(loss_of, left=1e308, kinds=2)
    made.run()
    assert {abs(entry.octave) for entry in tried} <= {*range(26)}
    assert 0 < made.halving.spent < 10
