"""Decisions about schedules between steps, about ceil, and leanings where doubles underflow."""

import json

import pytest
from click.testing import CliRunner

from gradiometer import theorem
from gradiometer.cli.schedule import schedule as command
from gradiometer.convergence.schedules import Formula, Linear
from gradiometer.convergence.theorem.evidence import evidence


@pytest.mark.parametrize(
    ("text", "holds"), [("1/ceil(t/10)", True), ("1/ceil(sqrt(t))", False), ("0.1*0.5**ceil(t/30)", False)]
)
def test_ceil_is_decided(text: str, holds: bool) -> None:
    assert theorem(text).theorem is holds
    assert Formula("ceil(t/10)")(0) == Formula("ceil(t/10)")(9) == 1 and Formula("ceil(t/10)")(10) == 2


def test_a_constant_beyond_doubles_is_decided_and_written() -> None:
    verdict = theorem("(1e308 ** t) ** (-1e308)")
    assert verdict.limit_zero and verdict.sum_diverges is False
    assert verdict.why.startswith("η_t falls as exp(−(over 1e308) t)")


def test_evidence_does_not_take_underflow_for_zero() -> None:
    small = evidence(lambda t: 1e-300 / t)
    assert small.sum_diverges is not False and small.limit_zero is True
    slow = evidence(lambda t: 1e-250 / t**0.5)
    assert slow.sum_diverges is True and slow.sum_of_squares_converges is False
    assert evidence(lambda t: float(t) ** -100).sum_diverges is False
    assert evidence(lambda t: 0.99**t).sum_diverges is False


def test_the_command_knows_the_names_of_train() -> None:
    result = CliRunner().invoke(command, ["cosine", "linear", "constant", "--steps", "50", "--json"])
    entries = json.loads(result.output)["schedules"]
    assert [entry["expression"] for entry in entries] == ["cosine", "linear", "constant"]
    assert [entry["sum_diverges"] for entry in entries] == [False, False, True]
    assert [entry["limit_zero"] for entry in entries] == [True, True, False]
    plain = CliRunner().invoke(command, [repr(Linear(0.1, steps=50)), "--steps", "50", "--json"])
    assert json.loads(plain.output)["schedules"][0]["horizon"] == entries[1]["horizon"]
