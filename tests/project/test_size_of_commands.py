"""The command line is small."""

import click

from command_line import commands_of, leaves
from gradiometer.cli import gradiometer


def test_there_are_at_most_12_commands_with_at_most_130_options() -> None:
    every = [gradiometer, *leaves()]
    options = [
        each for command in every for each in command.params if isinstance(each, click.Option)
    ]
    assert len([*commands_of(gradiometer)]) <= 12 and len(options) <= 130
