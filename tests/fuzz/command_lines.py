"""Command lines of every command: its options as the command declares them, most of them with a
value that fits."""

import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import click
import spoiled
from fork_kinds import called
from works import LOG

from command_line import leaves
from gradiometer.run import Configuration

TRAINED = ("quadratic", "--steps", "12", "--every", "4", "--no-open")
SHORT: dict[str, tuple[str, ...]] = {
    "train": TRAINED,
    "resume": ("run", "--no-open"),
    "tune": ("quadratic", "--steps", "24", "--budget", "2"),
    "fork": ("run", "rate 2x", "--at", "10", "--horizon", "1 update", "--replicates", "1"),
    "batch": ("run", "--seconds", "0"),
    "sharpness": ("run", "--examples", "16", "--top", "1", "--probes", "4"),
    "certificate": ("run", "--examples", "16", "--batches", "8"),
    "ensemble": ("run", "--points", "0"),
    "list": (".",),
    "compare": ("run", "other", "--no-open"),
    "export": ("run", "--out", "table.csv"),
    "show": ("run", "--no-open"),
    "doctor": (str(LOG),),
    "schedule": ("1/t", "--steps", "100"),
    "sample": ("quadratic", "--steps", "40", "--burn-in", "4", "--chains", "1"),
    "lecture": ("S99",),
    "demo": ("--nothing",),
    "selftest": ("--nothing",),
}
"""Arguments with which each command is done in a second; the last three are too long, and only
their refusals are tried."""

GROUPS = {"batch": "measure", "sharpness": "measure", "certificate": "measure", "list": "runs",
          "compare": "runs", "export": "runs", "schedule": "learn", "sample": "learn",
          "lecture": "learn", "selftest": "learn"}  # fmt: skip
ENDLESS = {"--live", "--full", "--config"}
"""Options that serve for ever, or take minutes; and one with its own generator."""

NUMBERS = ("0", "1", "2", "3", "-1", "0.5", "1e-300", "1e39", "nan", "-inf", "x", "", "9" * 5000,
           "1e999", "True", "0x10", "1_0", "\u0661\u0662", " 3 ", "1,2", "2,2", ",", "1.0", "1e0",
           "-0", "+2", "1e400", "None", "5e-324")  # fmt: skip
PATHS = ("none", ".", "run", "other", "/dev/null", "a" * 300, "", "é", "run/run.toml", "run/none/x", "..",
         "run/readings.jsonl", "-", "~", "file:///x", "x.PNG", "x.html", "x.csv", "x.onnx")  # fmt: skip
TEXTS: dict[str, tuple[str, ...]] = {
    "--optimizer": ("sgd", "adamw", "schedulefree", "sgd,adamw", "adam", "sgd,sgd"),
    "--gauges": ("noise", "noise,trajectory", "noise,", "nois", "os:system", "a:b:c", "x:"),
    "--gauge": ("noise", "nois", ""),
    "--model": ("mlp", "none", "a:b"),
    "--device": ("cpu", "cuda", "meta", "cpu:7", "tpu"),
    "--pool": (
        "here",
        "processes:1",
        "processes:0",
        "processes:x",
        "cloud",
        "ray://",
        "processes:-1",
    ),
    "--horizon": ("1 update", "2 updates", "end", "0.1%", "1 examples", "1e9 days", "x"),
    "--loss": ("loss", "none", ""),
    "--loop": ("none:none", "os:system", "x"),
    "--schedule": ("constant", "cosine", "0.1/sqrt(t)"),
    "--name": ("x", "a/b", "..", "é", "a" * 300, ""),
    "--match": ("*", "[", "run-[0-9]*", "**", "\\"),
}


def command_line(draw: random.Random, folder: Path, base: Path) -> None:
    """A command with up to three options that are spoiled or fit by chance."""
    shutil.copytree(base, folder / "run")
    shutil.copytree(base.parent / "loop-1", folder / "other")
    command = draw.choice([*leaves()])
    name = str(command.name)
    given = [*((GROUPS[name],) if name in GROUPS else ()), name, *SHORT[name]]
    for option in draw.sample(command.params, min(len(command.params), draw.randint(0, 3))):
        given += _spoiled(draw, option)
    if draw.random() < 0.1:
        given.insert(0, draw.choice(("--trust", "--version", "--x", "-h")))
    called([each.replace("\0", "") for each in given])


def _spoiled(draw: random.Random, option: click.Parameter) -> Iterator[str]:
    """An option with a value, or another argument."""
    if isinstance(option, click.Argument):
        if draw.random() < 0.3:
            yield draw.choice((*PATHS, *TEXTS["--gauges"], spoiled.text(draw)))
        return
    flag = draw.choice(option.opts)
    if flag in ENDLESS or option.name == "charts":  # a page of charts takes longer than the limit
        return
    yield flag
    if isinstance(option, click.Option) and option.is_flag:
        return
    if isinstance(option.type, click.Choice):
        yield draw.choice((*map(str, option.type.choices), "x", ""))
    elif isinstance(option.type, click.Path):
        yield draw.choice(PATHS)
    elif flag == "--set":
        setting = draw.choice((*Configuration.__struct_fields__, "x", ""))
        usual = TEXTS.get(f"--{setting}", ("yes", "no", "auto"))
        yield f"{setting}{draw.choice(('=', '=', '=', ''))}{draw.choice((*usual, *NUMBERS))}"
    elif flag in TEXTS:
        yield draw.choice((*TEXTS[flag], spoiled.changed(draw, TEXTS[flag][0]), *NUMBERS[:3]))
    else:
        yield draw.choice(NUMBERS)
