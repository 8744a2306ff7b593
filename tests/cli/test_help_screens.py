"""Help screens: whole summaries, options under headings, and a loop of one's own on the first."""

import re

import click
import pytest
from click.testing import CliRunner

from command_line import commands_of, leaves
from gradiometer.cli import gradiometer
from gradiometer.cli.sections import SectionedCommand


def help_of(*words: str, width: int) -> str:
    return CliRunner().invoke(gradiometer, [*words, "--help"], terminal_width=width).output


@pytest.mark.parametrize("width", [80, 100])
def test_the_first_screen_names_watch_and_cuts_no_summary(width: int) -> None:
    screen = help_of(width=width)
    assert "from gradiometer import watch" in screen
    assert "…" not in screen and not re.search(r"\w\.\.\.$", screen, re.MULTILINE)
    names = [name for name, _ in commands_of(gradiometer)]
    assert [name for name in names if not re.search(rf"^  {name} ", screen, re.MULTILINE)] == []


@pytest.mark.parametrize("group", ["measure", "runs", "learn"])
def test_a_group_cuts_no_summary(group: str) -> None:
    screen = help_of(group, width=80)
    assert "Commands:" in screen and not re.search(r"\w\.\.\.$", screen, re.MULTILINE)


@pytest.mark.parametrize("width", [80, 100])
@pytest.mark.parametrize("name", ["train", "tune", "fork"])
def test_a_long_command_lists_each_option_once_under_a_heading(name: str, width: int) -> None:
    command = gradiometer.commands[name]
    assert isinstance(command, SectionedCommand)
    screen = help_of(name, width=width)
    assert "Basic options:" in screen and "Advanced" in screen
    named = [each for names in command.sections.values() for each in names]
    options = [str(each.name) for each in command.params if isinstance(each, click.Option)]
    assert sorted(named) == sorted(options)
    assert max(map(len, screen.splitlines())) <= width


def test_the_summary_of_every_command_is_one_line_of_plain_words() -> None:
    for command in leaves():
        summary = command.get_short_help_str(limit=1000)
        assert summary and len(summary.split()) <= 25, command.name
