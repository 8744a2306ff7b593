"""Flags that several commands share. Those of training are made from the fields of `Configuration`."""

import re
import types
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec

from gradiometer.run.configuration import Configuration

Command = TypeVar("Command", bound=Callable[..., Any])

SEED = click.IntRange(0, 2**63 - 1)
"""What a seed can be."""

SHORT = {"learning_rate": ("--lr",), "batch_size": ("-b",), "epochs": ("-e",)}


def configuration_options(*leave_out: str) -> Callable[[Command], Command]:
    """One flag for every field of `Configuration`, with its docstring as the help text."""
    helps = _argument_texts(Configuration)

    def decorate(command: Command) -> Command:
        for field in reversed(msgspec.structs.fields(Configuration)):
            if field.name in leave_out:
                continue
            long = f"--{field.name.replace('_', '-')}"
            declarations = (long, *SHORT.get(field.name, ()), field.name)
            default = "" if field.default is None else f"  [default: {field.default}]"
            text = helps.get(field.name, "") + default
            if _kind(field.type) is bool:
                option = click.option(f"{long}/--no-{long[2:]}", field.name, default=None, help=text)
            else:
                option = click.option(*declarations, type=_click_type(field.type), default=None, help=text)
            command = option(command)
        return command

    return decorate


def configuration_from(file: Path | None, flags: dict[str, Any]) -> Configuration:
    """The configuration from a TOML file and flags."""
    return Configuration.from_mapping(given_by(file, flags), "")


def given_by(file: Path | None, flags: dict[str, Any]) -> dict[str, Any]:
    """The values that a TOML file and flags give, without defaults. Flags win over the file."""
    written = {} if file is None else Configuration.given_in(file)
    return written | {name: value for name, value in flags.items() if value is not None}


def out_option(command: Command) -> Command:
    """Add `--out`, the folder of the runs."""
    return click.option(
        "--out", type=click.Path(path_type=Path), default=Path("runs"), show_default=True, help="Folder of the runs."
    )(command)


def json_option(command: Command) -> Command:
    """Add `--json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON object on standard output.")(command)


def pool_option(command: Command) -> Command:
    """Add `--pool`, the place where independent pieces of work run."""
    return click.option(
        "--pool", default="here", show_default=True, metavar="WHERE", callback=_known_pool,
        help="Where independent pieces of work run: here, processes[:COUNT] or ray[:ADDRESS].",
    )(command)  # fmt: skip


def talk_options(command: Command) -> Command:
    """Add `--quiet`, `--no-open` and `--fail-on`."""
    for option in (
        click.option("-q", "--quiet", is_flag=True, help="Print nothing during training."),
        click.option("--no-open", is_flag=True, help="Do not open the page in a browser."),
        click.option(
            "--fail-on",
            type=click.Choice(["cannot tell", "look", "act"]),
            default=None,
            help="Exit with code 3 if a finding is at or above this state.",
        ),
    ):
        command = option(command)
    return command


def _known_pool(_: click.Context, __: click.Parameter, text: str) -> str:
    """The text, unless no pool has it or nothing answers at its address. Of the usual one nothing is imported."""
    if text != "here":
        from gradiometer.jobs.choice import pool_of

        pool_of(text, "--pool").check()  # before the work begins, which may take minutes to reach the pool
    return text


def _kind(annotation: Any) -> Any:
    """The type of a flag's value, without None."""
    if isinstance(annotation, types.UnionType):
        return next(kind for kind in annotation.__args__ if kind is not types.NoneType)
    return annotation


def _click_type(annotation: Any) -> Any:
    kind = _kind(annotation)
    if typing.get_origin(kind) is typing.Literal:
        return click.Choice(list(kind.__args__))
    return kind


def _argument_texts(documented: type) -> dict[str, str]:
    """The `Args` of a docstring: one line of text for each name."""
    lines = re.split(r"\n\s*Args:\n", documented.__doc__ or "", maxsplit=1)[-1]
    found = re.findall(r"^ {8}(\w+): (.*(?:\n {12}.*)*)", lines, flags=re.MULTILINE)
    return {name: re.sub(r"\s+", " ", text) for name, text in found}
