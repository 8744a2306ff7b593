"""Flags that several commands share, and what the shell completes. The flags of training are made
from the fields of `Configuration`.
"""

import re
import types
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec
from click.shell_completion import CompletionItem

from gradiometer.errors import BadArgument
from gradiometer.run.configuration import Configuration

Command = TypeVar("Command", bound=Callable[..., Any])

# What a seed can be.
SEED = click.IntRange(0, 2**63 - 1)


class OutFile(click.Path):
    """A file to write. An empty name, as an unset variable of a shell gives, is none."""

    def __init__(self, *, in_folder: bool = False) -> None:
        super().__init__(dir_okay=False, path_type=Path)
        # True if the folder must exist before the work begins.
        self.in_folder = in_folder

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path. A folder and an empty name are refused."""
        if not Path(value).name:
            self.fail(f"must be the name of a file, got {str(value)!r}.", param, ctx)
        folder = Path(value).parent
        if self.in_folder and param is not None and not folder.is_dir():
            raise BadArgument(f"`{param.opts[0]}` {value}: the folder {folder} does not exist.")
        return super().convert(value, param, ctx)


SHORT = {"learning_rate": ("--lr",), "epochs": ("-e",)}


def _set(context: click.Context, option: click.Parameter, texts: tuple[str, ...]) -> dict[str, Any]:
    """The settings that `--set` gives, by their names."""
    fields = {field.name: field for field in msgspec.structs.fields(Configuration)}
    values = dict[str, Any]()
    for text in texts:
        key, equals, value = text.partition("=")
        name = key.strip().replace("-", "_")
        if not equals:
            raise BadArgument(
                f"`--set` must be NAME=VALUE, such as --set nesterov=yes, got {text!r}."
            )
        if name in values:
            raise BadArgument(f"`--set` gives {name} twice: leave one of them out.")
        # `Configuration` refuses an unknown name, and names the nearest one
        values[name] = value
        if name in fields:
            kind = click.types.convert_type(_click_type(fields[name].type))
            values[name] = kind.convert(value.strip(), option, context)
    return values


set_option = click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="NAME=VALUE",
    callback=_set,
    help=(
        "Any other setting of a training, by its name in a TOML file, such as --set "
        "nesterov=yes. Repeatable. They are listed in the reference, Configuration."
    ),
)


def configuration_options(*names: str) -> Callable[[Command], Command]:
    """One flag for each of these fields of `Configuration`, with the line of its docstring as the
    help text, and `--set`."""
    lines = re.split(r"\n\s*Args:\n", Configuration.__doc__ or "", maxsplit=1)[-1]
    helps = dict(re.findall(r"^ {8}(\w+): (.*(?:\n {12}.*)*)", lines, flags=re.MULTILINE))
    fields = {field.name: field for field in msgspec.structs.fields(Configuration)}

    def decorate(command: Command) -> Command:
        command = set_option(command)
        for name in reversed(names):
            field = fields[name]
            declarations = (f"--{name.replace('_', '-')}", *SHORT.get(name, ()), name)
            default = "" if field.default is None else f"  [default: {field.default}]"
            option = click.option(
                *declarations,
                type=_click_type(field.type),
                default=None,
                help=re.sub(r"\s+", " ", helps.get(name, "")) + default,
                shell_complete=models if name == "model" else None,
            )
            command = option(command)
        return command

    return decorate


def settings_of(flags: dict[str, Any]) -> dict[str, Any]:
    """The settings of a training that flags and `--set` give.

    Raises:
        BadArgument: A setting is given by its flag and by `--set`.
    """
    named = {
        name: value for name, value in flags.items() if name != "settings" and value is not None
    }
    listed = flags.get("settings") or {}
    for name in named.keys() & listed.keys():
        raise BadArgument(f"`{name}` is given by its flag and by --set: leave one of them out.")
    return named | listed


def configuration_from(file: Path | None, flags: dict[str, Any]) -> Configuration:
    """The configuration from a TOML file and flags."""
    return Configuration.from_mapping(given_by(file, flags), "")


def given_by(file: Path | None, flags: dict[str, Any]) -> dict[str, Any]:
    """The values that a TOML file and flags give, without defaults. Flags win over the file."""
    written = {} if file is None else Configuration.given_in(file)
    return written | settings_of(flags)


# The folder of the runs.
out_option = click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("runs"),
    show_default=True,
    help="Folder of the runs.",
)

json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object on standard output."
)

no_open_option = click.option("--no-open", is_flag=True, help="Do not open the page in a browser.")


def fail_on_option(*states: str) -> Callable[[Command], Command]:
    """The option by which a finding fails a workflow, with the states that it takes."""
    return click.option(
        "--fail-on",
        type=click.Choice(states),
        default=None,
        help="Exit with code 3 if a finding is at or above this state.",
    )


def _known_pool(_: click.Context, __: click.Parameter, text: str) -> str:
    """The text, unless no pool has it or nothing answers at its address. The usual one imports
    nothing."""
    if text != "here":
        from gradiometer.jobs.choice import pool_of

        pool_of(
            text, "--pool"
        ).check()  # before the work begins, which may take minutes to reach the pool
    return text


# The place where independent pieces of work run.
pool_option = click.option(
    "--pool",
    default="here",
    show_default=True,
    metavar="WHERE",
    callback=_known_pool,
    help="Where independent pieces of work run: here, processes[:COUNT] or ray[:ADDRESS].",
)


def _click_type(annotation: Any) -> Any:
    """The type of a flag's value, without None."""
    kind = annotation
    if isinstance(annotation, types.UnionType):
        kind = next(one for one in annotation.__args__ if one is not types.NoneType)
    if typing.get_origin(kind) is typing.Literal:
        return click.Choice(list(kind.__args__))
    return kind


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
