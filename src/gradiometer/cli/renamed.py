"""Command lines of version 0.2 in the words of this one. It answers for this release only."""

import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

# What the commands of version 0.2 are called now.
COMMANDS = {
    "report": ("show",),
    "compare": ("runs", "compare"),
    "export": ("runs", "export"),
    "batch": ("measure", "batch"),
    "sharpness": ("measure", "sharpness"),
    "certify": ("measure", "certificate"),
    "lecture": ("learn", "lecture"),
    "schedule": ("learn", "schedule"),
    "sample": ("learn", "sample"),
    "selftest": ("learn", "selftest"),
}

SPLIT = (
    "`split` is gone: it bought its choice for 1.5 to 3.25 trainings, and snapshots of one "
    "training are worth as much where it pays. Use `gradiometer train --snapshots 5`, then "
    "`gradiometer ensemble`."
)


class Option(NamedTuple):
    """An option of version 0.2: if it has a value, and what is written now; None if nothing takes
    its place."""

    has_value: bool
    now: Callable[[str], list[str]] | None


def _setting(name: str) -> dict[str, Option]:
    """An option that is given by `--set` now."""
    return {f"--{name.replace('_', '-')}": Option(True, lambda value: ["--set", f"{name}={value}"])}


def _switch(name: str) -> dict[str, Option]:
    """An option without a value that is given by `--set` now, and its opposite."""
    flag = name.replace("_", "-")
    return {
        f"--{flag}": Option(False, lambda _: ["--set", f"{name}=yes"]),
        f"--no-{flag}": Option(False, lambda _: ["--set", f"{name}=no"]),
    }


def _settings(*names: str) -> dict[str, Option]:
    return {flag: option for name in names for flag, option in _setting(name).items()}


def _change(form: str) -> Option:
    """An option of `fork` with values between commas, each of which is a text now."""
    return Option(
        True,
        lambda values: [
            form.format(value.strip().removesuffix("x")) for value in values.split(",")
        ],
    )


_RARE = {
    **_settings("clip", "fork_budget", "cool_budget", "sampling", "parts", "level", "threads"),
    **_settings("checkpoint_seconds", "keep_checkpoints", "checkpoint_at", "data_dir"),
    **_switch("nesterov"),
    **_switch("probe"),
    **_switch("check_edge"),
    **_switch("check_endpoint"),
}
_SETTING_OF_PROBLEM = {
    **_RARE,
    **_settings(
        "model", "learning_rate", "snapshots", "cool", "batch_size", "optimizer", "momentum"
    ),
    **_settings("weight_decay", "accumulation", "seed", "device"),
    "--lr": _setting("learning_rate")["--learning-rate"],
    "-b": _setting("batch_size")["--batch-size"],
}
_GONE = {"-q": Option(False, None), "--quiet": Option(False, None)}

# Options of version 0.2 that are written in another way now, by the command of version 0.2.
OPTIONS: Mapping[str, Mapping[str, Option]] = {
    "demo": {**_GONE, "--fail-on": Option(True, None)},
    "resume": {**_GONE, "--fail-on": Option(True, None)},
    "train": {**_RARE, **_GONE, "--aim": Option(True, None), "--guard": Option(True, None)},
    "tune": {**_RARE, **_settings("seed", "device"), "--guard": Option(True, None)},
    "report": {"--level": Option(True, None)},
    "compare": {"--level": Option(True, None)},
    "runs": {"--status": Option(True, None)},
    "ensemble": {"--level": Option(True, None)},
    "doctor": {"--level": Option(True, None)},
    "fork": {
        "--rate": _change("rate {}x"),
        "--batch": _change("batch {}x, rate sqrt"),
        "--momentum": _change("momentum {}"),
        "--weight-decay": _change("weight decay {}"),
        "--clip": _change("clip {}"),
        "--skip": _change("skip {}"),
        "--cool": Option(False, lambda _: ["cool now"]),
        "--schedule": Option(True, lambda shape: [f"follow {shape}"]),
        "--try": Option(True, lambda text: [text]),
        "--level": Option(True, None),
    },
    "batch": {
        **_SETTING_OF_PROBLEM,
        "--measure-time": Option(False, lambda _: []),
        "--no-measure-time": Option(False, lambda _: ["--seconds", "0"]),
        "--tolerance": Option(True, None),
    },
    "sharpness": {name: one for name, one in _SETTING_OF_PROBLEM.items() if name != "--seed"},
    "certify": {
        "--exact": Option(False, lambda _: ["--batches", "all"]),
        "--seed": Option(True, None),
    },
    "sample": {
        **_settings("model", "data_dir", "momentum", "weight_decay", "level"),
        "--hold": Option(False, None),
        "--no-hold": Option(False, None),
    },
}


def answer(arguments: Sequence[str]) -> str | None:
    """The sentence for a command line of version 0.2, with the one to write now; None if it is
    none.

    >>> answer(["certify", "runs/digits-mlp-1", "--exact"])
    'Since version 0.3 this is `gradiometer measure certificate runs/digits-mlp-1 --batches all`.'
    """
    if not arguments:
        return None
    if arguments[0] == "split":
        return SPLIT
    command, *rest = arguments
    options = OPTIONS.get(command, {})
    before, after, gone = list[str](), list[str](), list[str]()
    while rest:
        given = rest.pop(0)
        name, equals, value = given.partition("=") if given.startswith("--") else (given, "", "")
        option = options.get(name)
        if name == "--trust":
            before.append(name)
        elif option is None:
            after.append(given)
        else:
            if option.has_value and not equals:
                value = rest.pop(0) if rest else ""
            if option.now is None:
                gone.append(name)
            else:
                after += option.now(value)
    written = [*before, *COMMANDS.get(command, (command,)), *after]
    if written == list(arguments) and not gone:
        return None
    without = (
        f", without {' and '.join(gone)}, which {'are' if len(gone) > 1 else 'is'} gone"
        if gone
        else ""
    )
    return f"Since version 0.3 this is `gradiometer {shlex.join(written)}`{without}."
