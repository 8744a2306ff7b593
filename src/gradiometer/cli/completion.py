"""Completion in the shell besides commands and flags: problems, models, and the
folders of runs."""

from pathlib import Path

import click
from click.shell_completion import CompletionItem


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
    folder = Path(begun.rpartition("/")[0] or "/") if "/" in begun else Path("runs")
    inside = sorted(folder.iterdir()) if folder.is_dir() else []
    found = [
        CompletionItem(str(path))
        for path in inside
        if str(path).startswith(begun) and (path / "run.toml").is_file()
    ]
    return found or [CompletionItem(begun, type="dir")]


def targets(context: click.Context, parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    """Runs and problems."""
    return [*problems(context, parameter, begun), *runs(context, parameter, begun)]
