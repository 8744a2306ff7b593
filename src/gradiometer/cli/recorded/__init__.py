"""`gradiometer runs`: the runs on disk, as a list, in comparison, or as a table of
their numbers."""

import click

from gradiometer.cli.recorded.compare import compare
from gradiometer.cli.recorded.export import export
from gradiometer.cli.recorded.listing import list_runs


class ListByDefault(click.Group):
    """A group that lists if no command is named: `gradiometer runs FOLDER` is `gradiometer runs
    list FOLDER`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """The arguments, with the name of the command."""
        named = bool(args) and (args[0] in self.commands or args[0] in ctx.help_option_names)
        return super().parse_args(ctx, args if named else ["list", *args])


@click.group(cls=ListByDefault, epilog="Example: gradiometer runs --sort loss --match 'digits-*'")
def runs() -> None:
    """List the runs of a folder (without a further command), compare some, or export one as a
    table."""


for verb in (list_runs, compare, export):
    runs.add_command(verb)
