"""The command line, in this process or in its own."""

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence

import click
import pytest

from gradiometer.cli import gradiometer, main


def run_cli(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, as a person starts it."""
    return subprocess.run(
        [sys.executable, "-m", "gradiometer", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )


def spent() -> float:
    """Processor time, in seconds, of all processes that this one has waited for. A busy machine
    hardly changes it."""
    times = os.times()
    return times.children_user + times.children_system


def called(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """The command in this process: exit code, standard output, standard error."""
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    captured = capsys.readouterr()
    return ended.value.code, captured.out, captured.err


def commands_of(group: click.Group) -> Iterator[tuple[str, click.Command]]:
    """The commands of a group with their names, those of entry points, too."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield name, command


def unknown_words(arguments: Sequence[str]) -> list[str]:
    """Of a command line in a document: its command, if there is none, or the flags that the command
    does not have."""
    command: click.Command = gradiometer
    rest = list(arguments)
    while isinstance(command, click.Group) and rest:
        inner = dict(commands_of(command))
        if rest[0] in inner:
            command = inner[rest.pop(0)]
        elif command.name == "runs":
            command = inner["list"]
        else:
            return rest[:1]
    known = {name for each in command.params for name in [*each.opts, *each.secondary_opts]}
    return [each for each in rest if each.startswith("--") and each.partition("=")[0] not in known]


def leaves(command: click.Command = gradiometer) -> Iterator[click.Command]:
    """Every command that does something: those of groups, too."""
    if isinstance(command, click.Group):
        for _, inner in commands_of(command):
            yield from leaves(inner)
    else:
        yield command
