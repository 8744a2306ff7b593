"""Successive halving: who is trained, what it costs, and what a rule sees."""

from collections.abc import Iterator, Sequence

import pytest

from gradiometer.loop.comparison.halving import Halving, Stage

LOSSES = {"a": 3.0, "b": 1.0, "c": 2.0, "d": 4.0, "e": 0.5}


def ends(names: Sequence[str], length: float) -> dict[str, float]:
    return {name: LOSSES[name] / length for name in names}


@pytest.mark.parametrize(("continues", "cost"), [(True, 4.4 + 2.2 + 2.1), (False, 4.4 + 4.2 + 2.1)])
def test_lengths_that_were_reached_are_paid_once_if_contestants_continue(
    continues: bool, cost: float
) -> None:
    def stages() -> Iterator[Stage[str]]:
        yield Stage(["a", "b", "c", "d"], 1.0)
        yield Stage(["b", "c"], 2.0)
        yield Stage(["e"], 2.0)

    halving = Halving(ends, 10.0, continues=continues, readout=0.1)
    halving.run(stages())
    assert halving.spent == pytest.approx(cost)
    assert halving.rest == pytest.approx(10 - cost)
    assert [each.length for each in halving.rounds] == [1.0, 2.0]
    assert halving.rounds[1].ends == {"b": 0.5, "c": 1.0, "e": 0.25}
    assert halving.reached == {"a": 1.0, "b": 2.0, "c": 2.0, "d": 1.0, "e": 2.0}


def test_a_rule_sees_every_round_before_it_names_the_next_stage() -> None:
    seen: list[dict[str, float]] = []

    def stages() -> Iterator[Stage[str]]:
        names = ["a", "b", "c", "d"]
        length = 1.0
        while len(names) > 1:
            yield Stage(names, length)
            ranked = halving.rounds[-1].ends
            seen.append(ranked)
            names = sorted(ranked, key=lambda name: ranked[name])[: len(names) // 2]
            length *= 2

    halving = Halving(ends, 8.0)
    halving.run(stages())
    assert [list(each) for each in seen] == [["a", "b", "c", "d"], ["b", "c"]]
