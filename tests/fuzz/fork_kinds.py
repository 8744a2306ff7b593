"""Forks as input: texts of alternatives and lengths, plans and finished branches on disk, command
lines."""

import json
import random
import shutil
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

import spoiled

from gradiometer import Run, diagnose
from gradiometer.cli import main
from gradiometer.loop import alternative_of, forks_of
from gradiometer.loop.branches import sentence
from gradiometer.loop.horizon import Horizon
from gradiometer.report.page.page import render

ASKED = ("rate 2x", "--at", "10", "--horizon", "2 updates", "--replicates", "2")
"""The fork of the recorded run."""

FLAGS: dict[str, Sequence[str]] = {  # under the empty name, changes
    "": (
        *spoiled.ALTERNATIVES,
        "rate 0x",
        "batch 0.01x",
        "momentum 1",
        "weight decay -1",
        "clip 0",
        "skip 0:1",
    ),
    "--at": ("0", "10", "269", "270", "1000"),
    "--horizon": ("1 update", "3 updates", "33 examples", "0.1%", "0 updates", "0.001 s"),
    "--replicates": ("1", "2", "3"),
    "--budget": ("0.01", "0.05"),
    "--tail": ("half", "none"),
    "--readout": ("test_loss", "test_accuracy"),
    "--spike": ("3", "100"),
    "--seed": ("1", "7"),
}
SHORT = ("--horizon", "1 update", "--replicates", "1")


def called(given: Sequence[str]) -> None:
    """A command; its exit code must be one that names the error."""
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()) as said:
        try:
            main([*given])
        except SystemExit as ended:
            if ended.code not in (0, 2, 3, 4, 5, 6):
                raise AssertionError(f"{given}: exit {ended.code}\n{said.getvalue()}") from ended


def alternative(random: random.Random, _: Path) -> None:
    """A text of an alternative, which is the same after a round trip through JSON, or
    of a length."""
    text = spoiled.changed(random, random.choice(spoiled.ALTERNATIVES))
    if random.random() < 0.3:
        length = Horizon.parse(
            spoiled.changed(random, random.choice(("500 updates", "2 epochs", "25%", "1e3 s")))
        )
        assert (
            length.examples(batch=10, epoch=100, left=10_000, seconds_per_update=lambda: 0.1) >= 0
        )
        return
    if random.random() < 0.3:
        text += " & " + spoiled.changed(random, random.choice(spoiled.ALTERNATIVES))
    made = alternative_of(text)
    assert alternative_of(json.loads(json.dumps(made.to_dict()))) == made


def fork_folder(random: random.Random, folder: Path, base: Path) -> None:
    """A run whose plan of a fork or finished branches are spoiled: read, and then continued by the
    same command."""
    copy = Path(shutil.copytree(base, folder / "run"))
    for name in random.sample(
        ("fork.json", "branches.jsonl", "branches.jsonl"), random.randint(1, 2)
    ):
        path = copy / "forks" / "0001" / name
        if path.is_file():
            spoiled.file(random, path)
    run = Run.open(copy)
    for record in forks_of(run):
        assert all(record.warnings)
        sentence(record.fork, record.fork.effects())
    if random.random() < 0.2:
        render(run, diagnose(run))
    called(("fork", str(copy), *ASKED))


def fork_arguments(random: random.Random, folder: Path, base: Path) -> None:
    """Arguments of `fork` for a run that is there, and of `runs`."""
    copy = Path(shutil.copytree(base, folder / "run"))
    if random.random() < 0.3:
        pattern = spoiled.changed(random, "run-[0-9]*").replace("\0", "")
        called(("runs", str(random.choice((folder, copy))), f"--match={pattern}", "--json"))
        return
    given = ["fork", str(copy)]
    for name in random.sample([*FLAGS], random.randint(1, 4)):
        usual = random.choice(FLAGS[name])
        text = usual if random.random() < 0.6 else spoiled.changed(random, usual)
        given.append((f"{name}={text}" if name else text).replace("\0", ""))
    if not any(each.startswith(("--horizon", "--budget")) for each in given):
        given += SHORT
    called(given)
