"""A share of the loops with incidents that are drawn at random."""

from pathlib import Path

import pytest
from incident_loops import fault


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(8))
def test_what_a_watch_keeps_of_an_incident_is_what_the_loop_had(seed: int, tmp_path: Path) -> None:
    assert (words := fault(seed, tmp_path)) is None, words


@pytest.mark.nightly
@pytest.mark.parametrize("first", range(100, 300, 20))
def test_what_a_watch_keeps_of_many_incidents_is_what_the_loop_had(
    first: int, tmp_path: Path
) -> None:
    for seed in range(first, first + 20):
        assert (words := fault(seed, tmp_path / str(seed))) is None, f"{seed}: {words}"
