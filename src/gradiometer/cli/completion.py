"""Completion in the shell besides commands and flags: problems, models, and the
folders of runs."""

from collections.abc import Iterator
from pathlib import Path

import click
from click.shell_completion import CompletionItem

# A folder with this file is a run.
RECORD = "run.toml"


def problems(_: click.Context, __: click.Parameter, begun: str) -> list[CompletionItem]:
    """The problems that ship, by the beginning of their names."""
    from gradiometer.problems.registry import NAMES

    return [CompletionItem(name) for name in NAMES if name.startswith(begun)]


def models(context: click.Context, _: click.Parameter, begun: str) -> list[CompletionItem]:
    """The models of the problem that was named before, or of all problems."""
    from gradiometer.problems.registry import KNOWN

    # `args` if the line is incomplete
    words = [
        str(context.params.get("problem")),
        *context.args,
    ]
    known = next((KNOWN[word] for word in words if word in KNOWN), None)
    names = (
        known.models
        if known is not None
        else {name: None for each in KNOWN.values() for name in each.models}
    )
    return [CompletionItem(name) for name in names if name.startswith(begun)]


def runs(_: click.Context, __: click.Parameter, begun: str) -> list[CompletionItem]:
    """The runs in the folder that was begun, or in the folder runs; other folders are left to the
    shell."""
    found = [CompletionItem(str(path)) for path in _runs_in(begun)]
    return found or [CompletionItem(begun, type="dir")]


def targets(context: click.Context, parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    """Runs and problems."""
    return [*problems(context, parameter, begun), *runs(context, parameter, begun)]


def _runs_in(begun: str) -> Iterator[Path]:
    folder = Path(begun.rpartition("/")[0] or "/") if "/" in begun else Path("runs")
    if folder.is_dir():
        for path in sorted(folder.iterdir()):
            if str(path).startswith(begun) and (path / RECORD).is_file():
                yield path
