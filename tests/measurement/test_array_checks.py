"""The checks of types and shapes that every test runs under: they see what jaxtyping's own wrapper
sees."""

from collections.abc import Iterator
from dataclasses import dataclass

import jaxtyping
import numpy as np
import pytest
from beartype.roar import BeartypeCallHintParamViolation, BeartypeCallHintReturnViolation
from jaxtyping import Float

from array_checks import checked
from gradiometer.measurement import Estimate
from gradiometer.measurement.uncertainty.means import slope


@checked
def weighted(
    values: Float[np.ndarray, " steps"], weights: Float[np.ndarray, " steps"]
) -> Float[np.ndarray, " steps"]:
    return np.append(values * weights, 1.0) if values[0] < 0 else values * weights


@checked
@dataclass
class Pair:
    first: Float[np.ndarray, " steps"]
    second: Float[np.ndarray, " steps"]


@checked
def each_of(values: Float[np.ndarray, " steps"]) -> Iterator[float]:
    yield from values


def test_a_generator_is_checked_as_it_is_made_and_shares_no_axes_with_who_uses_it() -> None:
    @checked
    def summed(values: Float[np.ndarray, " steps"]) -> float:
        return float(sum(each_of(values[1:])))

    assert summed(np.ones(3)) == 2
    with pytest.raises(jaxtyping.TypeCheckError, match="values"):
        each_of(np.ones(3, dtype=int))


def test_axes_of_one_name_have_one_size_in_arguments_results_and_fields() -> None:
    assert len(weighted(np.ones(3), np.ones(3))) == 3 and len(weighted(np.ones(4), np.ones(4))) == 4
    with pytest.raises(BeartypeCallHintParamViolation, match="weights"):
        weighted(np.ones(3), np.ones(4))
    with pytest.raises(BeartypeCallHintParamViolation, match="values"):
        weighted(np.ones(3, dtype=int), np.ones(3))
    with pytest.raises(BeartypeCallHintReturnViolation):
        weighted(-np.ones(3), np.ones(3))
    with pytest.raises(BeartypeCallHintParamViolation, match="second"):
        Pair(np.ones(3), np.ones(4))


def test_the_library_is_under_these_checks() -> None:
    with pytest.raises(BeartypeCallHintParamViolation, match="values"):
        slope(np.arange(20), np.ones(21), 0.9)
    with pytest.raises(BeartypeCallHintParamViolation, match="value"):
        Estimate.exact("one")  # type: ignore[arg-type]


def test_a_test_of_what_users_meet_may_leave_the_checks_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    assert len(weighted(-np.ones(3), np.ones(3))) == 4
