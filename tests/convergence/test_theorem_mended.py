"""Decisions about schedules between steps, about ceil."""

import json

import pytest
from click.testing import CliRunner

from gradiometer import theorem
from gradiometer.convergence.schedules import Formula, Linear
from gradiometer_lab.learn.schedule import schedule as command


@pytest.mark.parametrize(
    ("text", "holds"),
    [("1/ceil(t/10)", True), ("1/ceil(sqrt(t))", False), ("0.1*0.5**ceil(t/30)", False)],
)
def test_ceil_is_decided(text: str, holds: bool) -> None:
    assert theorem(text).theorem is holds
    assert (
        Formula("ceil(t/10)")(0) == Formula("ceil(t/10)")(9) == 1 and Formula("ceil(t/10)")(10) == 2
    )


def test_the_command_knows_the_names_of_train() -> None:
    result = CliRunner().invoke(
        command, ["cosine", "linear", "constant", "--steps", "50", "--json"]
    )
    entries = json.loads(result.output)["schedules"]
    assert [entry["expression"] for entry in entries] == ["cosine", "linear", "constant"]
    assert [entry["sum_diverges"] for entry in entries] == [False, False, True]
    assert [entry["limit_zero"] for entry in entries] == [True, True, False]
    plain = CliRunner().invoke(command, [repr(Linear(0.1, steps=50)), "--steps", "50", "--json"])
    assert json.loads(plain.output)["schedules"][0]["horizon"] == entries[1]["horizon"]
