"""Help screens in sections: options under headings, and commands with their whole summary."""

from collections.abc import Mapping, Sequence
from typing import Any

import click

# The heading of what no section names.
OTHERS = "Other options"


class SectionedCommand(click.Command):
    """A command whose options are listed under headings.

    Args:
        sections: The names of the parameters under each heading, in the order of the screen.
            Options that are not named follow under "Other options".
    """

    def __init__(self, *args: Any, sections: Mapping[str, Sequence[str]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.sections = sections

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write each heading with its options."""
        records = {
            str(parameter.name): record
            for parameter in self.get_params(ctx)
            if (record := parameter.get_help_record(ctx)) is not None
        }
        for title, names in self.sections.items():
            _write(formatter, title, [records.pop(name) for name in names])
        _write(formatter, OTHERS, list(records.values()))


class SectionedGroup(click.Group):
    """A group that lists its commands with whole summaries, never cut.

    Args:
        sections: The names of the commands under each heading. Commands that are not named follow
            under "Commands".
    """

    def __init__(
        self, *args: Any, sections: Mapping[str, Sequence[str]] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.sections = sections or {}

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write each heading with its commands."""
        found = {}
        for name in self.list_commands(ctx):
            command = self.get_command(ctx, name)
            if command is not None and not command.hidden:
                found[name] = (name, command.get_short_help_str(limit=10_000))
        for title, names in self.sections.items():
            _write(formatter, title, [found.pop(name) for name in names if name in found])
        _write(formatter, "Commands", list(found.values()))


def _write(formatter: click.HelpFormatter, title: str, records: Sequence[tuple[str, str]]) -> None:
    """A heading with its lines; nothing if there are none."""
    if records:
        with formatter.section(title):
            formatter.write_dl(list(records))
