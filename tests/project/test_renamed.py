"""The command line is small, and a command line of version 0.2 is answered with that of today."""

import shlex

import click
import pytest

from command_line import called, leaves, unknown_words
from gradiometer.cli import gradiometer
from gradiometer.cli.renamed import COMMANDS, OPTIONS, answer

OLD = {
    "report runs/a --png charts": "show runs/a --png charts",
    "compare runs/a runs/b --out page.html": "runs compare runs/a runs/b --out page.html",
    "export runs/a --out a.csv": "runs export runs/a --out a.csv",
    "batch runs/a --of run --no-measure-time": "measure batch runs/a --of run --seconds 0",
    "batch digits --model cnn --lr=0.1 -b 64": (
        "measure batch digits --set model=cnn --set learning_rate=0.1 --set batch_size=64"
    ),
    "batch digits --measure-time": "measure batch digits",
    "sharpness digits --steps 200 --lr 0.5": (
        "measure sharpness digits --steps 200 --set learning_rate=0.5"
    ),
    "certify runs/a --exact": "measure certificate runs/a --batches all",
    "lecture S6 --out site": "learn lecture S6 --out site",
    "schedule 1/t --steps 100": "learn schedule 1/t --steps 100",
    "sample quadratic --momentum 0.5": "learn sample quadratic --set momentum=0.5",
    "selftest --full": "learn selftest --full",
    "fork runs/a --rate 0.5x,2x --batch 2x --at 7": (
        "fork runs/a 'rate 0.5x' 'rate 2x' 'batch 2x, rate sqrt' --at 7"
    ),
    "fork runs/a --try 'rate 2x & clip 1' --cool": "fork runs/a 'rate 2x & clip 1' 'cool now'",
    "fork runs/a --schedule 1/t --skip 3:5 --clip 1": (
        "fork runs/a 'follow 1/t' 'skip 3:5' 'clip 1'"
    ),
    "fork runs/a --trust": "--trust fork runs/a",
    "train digits --nesterov --no-check-edge": (
        "train digits --set nesterov=yes --set check_edge=no"
    ),
    "train digits --checkpoint-at 5,9": "train digits --set checkpoint_at=5,9",
    "tune digits --seed 3": "tune digits --set seed=3",
}
GONE = {
    "demo -q": ("demo", "-q"),
    "resume runs/a --fail-on act": ("resume runs/a", "--fail-on"),
    "runs --status running": ("runs", "--status"),
    "fork runs/a --level 0.8": ("fork runs/a", "--level"),
}


@pytest.mark.parametrize("line", OLD)
def test_a_command_line_of_version_0_2_is_answered_with_todays(
    capsys: pytest.CaptureFixture[str], line: str
) -> None:
    code, out, error = called(capsys, *shlex.split(line))
    assert (code, out, error) == (
        2,
        "",
        f"Error: Since version 0.3 this is `gradiometer {OLD[line]}`.\n",
    )
    assert unknown_words([word for word in shlex.split(OLD[line]) if word != "--trust"]) == []


@pytest.mark.parametrize("line", GONE)
def test_an_option_that_is_gone_is_named(capsys: pytest.CaptureFixture[str], line: str) -> None:
    code, _, error = called(capsys, *shlex.split(line))
    now, option = GONE[line]
    assert code == 2
    assert (
        error
        == f"Error: Since version 0.3 this is `gradiometer {now}`, without {option}, which is gone.\n"
    )


def test_a_command_that_is_gone_says_what_took_its_place(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, _, error = called(capsys, "split", "digits")
    assert (
        code == 2 and "Use `gradiometer train --snapshots 5`, then `gradiometer ensemble`." in error
    )


@pytest.mark.parametrize(
    "line", ["train digits --bogus", "nothing", "fork", "runs compare", "--bogus"]
)
def test_another_mistake_keeps_its_own_sentence(
    capsys: pytest.CaptureFixture[str], line: str
) -> None:
    code, _, error = called(capsys, *line.split())
    assert code == 2 and "Since version" not in error and "Error: " in error


def test_no_option_of_today_is_taken_for_an_old_one() -> None:
    assert not COMMANDS.keys() & gradiometer.commands.keys()
    for name, command in gradiometer.commands.items():
        flags = {flag for each in command.params for flag in each.opts}
        assert not flags & OPTIONS.get(name, {}).keys()
    assert answer([]) is None


def test_there_are_at_most_12_commands_with_at_most_130_options() -> None:
    every = [gradiometer, *leaves()]
    options = [
        each for command in every for each in command.params if isinstance(each, click.Option)
    ]
    assert len(gradiometer.commands) <= 12 and len(options) <= 130
