"""What a program asks for without giving it again: a fork on the data and the length that a watch
knows, a run by anything that is none, an ensemble of spoiled snapshots, a tuning whose files are
spoiled, and whole columns of a record that fit their types and nothing else."""

import json
import math
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import spoiled
import torch
from fields import Field, _with, other_value, value_at
from fork_kinds import called
from loops import INPUTS, LABELS, LOSS, OBJECTS, STEPS, USUAL, _given, _parts, _update, check_bits
from readers import TUNE, TUNING, _fields, findings
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from gradiometer import GradiometerError, Run, Sampling, diagnose, say, watch
from gradiometer.loop import forks_of
from gradiometer.measurement import Draw
from gradiometer.report.compare import compare
from gradiometer.report.page import write_page
from gradiometer.run.folder import RunFolder
from gradiometer.train import incident_cause, loop_at

NUMBERS = (0.0, -0.0, -1.0, 1e-320, 1e-30, 1e30, 1e308, -1e308, 0.5, 1.0, "nan", "inf", "-inf")
"""Numbers that a file may have in any place of a number."""


class Stream(IterableDataset[Any]):
    """Examples without a length, some of which are anything."""

    def __init__(self, anything: Any) -> None:
        self.anything = anything

    def __iter__(self) -> Iterator[Any]:
        yield from zip(INPUTS, LABELS, strict=True)
        yield self.anything


class Long(TensorDataset):
    """A data set whose length is anything."""

    length: Any = 96

    def __len__(self) -> int:
        return self.length  # type: ignore[no-any-return]


def _loader(draw: random.Random) -> Any:
    """The data that a watch is given: a loader that fits, or one with something wrong."""
    kind = draw.random()
    if kind < 0.4:
        return DataLoader(TensorDataset(INPUTS, LABELS), batch_size=16, shuffle=draw.random() < 0.8)
    if kind < 0.6:
        return DataLoader(
            TensorDataset(INPUTS, LABELS),
            batch_size=draw.choice((1, 16, 96, 1000, None)),
            drop_last=False,
            collate_fn=draw.choice((None, lambda rows: rows, lambda rows: draw.choice(OBJECTS))),
        )
    if kind < 0.7:
        return DataLoader(Stream(draw.choice(OBJECTS)), batch_size=16)
    if kind < 0.8:
        loader = DataLoader(Long(INPUTS, LABELS), batch_size=16)
        Long.length = draw.choice((0, 1, 96, 97, 10**6, -1, 0.5, None))
        return loader
    if kind < 0.9:
        return draw.choice(
            (Sampling(Draw.RESHUFFLED, 96), Sampling(Draw.FRESH, None), (INPUTS, LABELS), None)
        )
    return draw.choice(OBJECTS)


def asked_loop(draw: random.Random, folder: Path) -> None:
    """A watched loop that gives its data and its length once, and asks for forks, incidents and
    evaluations without them, also after its end."""
    Long.length = 96
    model, optimizer = _parts()
    schedule = torch.optim.lr_scheduler
    make: Callable[[], object] = draw.choice(
        (
            lambda: None,
            lambda: schedule.StepLR(optimizer, 3),
            lambda: schedule.OneCycleLR(optimizer, 0.1, total_steps=STEPS + 20),
            lambda: schedule.LambdaLR(optimizer, lambda step: draw.choice((1.0, 0.0, 1e9))),
        )
    )
    scheduler = make()
    given = {"out": folder / "runs", "page": False, "quiet": True, "loss": LOSS}
    if draw.random() < 0.6:
        given["sampling"] = _loader(draw)
    if draw.random() < 0.5:
        given["steps"] = draw.choice((STEPS, STEPS + 10, 1))
    if draw.random() < 0.4:
        given["checkpoints"] = 2
    announced = _loader(draw) if draw.random() < 0.5 else None
    names = ("horizon", "replicates", "tail", "seed", "budget", "at", "batch_size", "evaluate",
             "scheduler", "scheduler_each", "left", "accumulation", "readout_examples")  # fmt: skip

    def ask(watched: Any) -> None:
        """One request; the loop goes on after a refusal."""
        settings = {"horizon": "1 update", "replicates": 1} | _given(draw, names, 2)
        if draw.random() < 0.2 and "left" not in settings:
            del settings["horizon"]  # a part of what is left by the plan
        requests: dict[str, Callable[[], object]] = {
            "fork": lambda: watched.fork(draw.choice(USUAL["alternatives"]), **settings),
            "incident": lambda: watched.incident(batches=draw.choice((INPUTS, None, announced))),
            "evaluated": lambda: watched.evaluated(**_given(draw, ("test", "train"))),
            "snapshot": watched.snapshot,
            "ensemble": lambda: watched.ensemble((INPUTS, LABELS), **_given(draw, ("points",))),
            "state": watched.state_dict,
            "findings": lambda: str(watched.findings()),
        }
        asked = "fork" if draw.random() < 0.6 else draw.choice([*requests])
        with suppress(GradiometerError):
            requests[asked]()

    with watch(model, optimizer, **given) as watched:
        # a loader may not be one that can be read; the loop of the person has its own data
        if announced is not None:
            with suppress(GradiometerError):
                watched.batches(announced)
        for step in range(STEPS):
            loss = _update(model, optimizer, step)
            rows = torch.arange(16 * step, 16 * step + 16) % 96
            watched.step(loss, (INPUTS[rows], LABELS[rows]))
            optimizer.step()
            if draw.random() < 0.3:
                ask(watched)
        if scheduler is None:
            check_bits(model)
    if draw.random() < 0.4:
        ask(watched)
    if watched.run is not None:
        diagnose(watched.run)


def any_run(draw: random.Random, folder: Path, base: Path) -> None:
    """A function that takes a run or the place of one, and is given anything, or a folder that is
    almost one."""
    copy = base
    if draw.random() < 0.3:
        copy = folder / draw.choice(("run", "r n", "é", "x" * 200, ".hidden", "-1"))
        shutil.copytree(base, copy)
        if draw.random() < 0.5:
            inside = draw.choice([path for path in copy.rglob("*") if path.is_file()])
            spoiled.file(draw, inside)
    anything = draw.choice((str(copy), copy, copy / "run.toml", copy.parent, Run.open(base)))
    if draw.random() < 0.5:
        anything = draw.choice(OBJECTS)
    run: Any = anything
    if draw.random() < 0.3:
        run = Run.open(anything) if draw.random() < 0.7 else RunFolder.open(anything)
    if draw.random() < 0.15:
        manifest = spoiled.value(draw, Run.open(base).manifest)
        name = draw.choice(("run", "", "../x", "a" * 300, "\0", *spoiled.NASTY))
        made = RunFolder.create(folder / "made", name, manifest)
        run = Run.open(made.path)
    step = draw.choice((0, 3, 10**9, *OBJECTS))
    calls: tuple[Callable[[], object], ...] = (
        lambda: diagnose(run).to_dict(),
        lambda: diagnose(run, draw.choice((0.9, *OBJECTS))),
        lambda: forks_of(run),
        lambda: loop_at(run, step),
        lambda: incident_cause(run, step),
        lambda: compare([run, Run.open(base)]),
        lambda: compare(run),
        lambda: write_page(run, draw.choice(OBJECTS)),
    )
    draw.choice(calls)()


def snapshots(draw: random.Random, folder: Path, base: Path) -> None:
    """A run with spoiled snapshots, whose ensemble is scored and whose page names them."""
    copy = Path(shutil.copytree(base, folder / "run"))
    found = sorted((copy / "snapshots").glob("[!.]*"))
    for path in draw.sample(found, draw.randint(1, len(found))):
        kind = draw.random()
        if kind < 0.5:
            whole = path.read_bytes()
            length = int.from_bytes(whole[:8], "little")
            header = spoiled.value(draw, json.loads(whole[8 : 8 + length]))
            text = json.dumps(header).encode()
            path.write_bytes(len(text).to_bytes(8, "little") + text + whole[8 + length :])
        elif kind < 0.8:
            spoiled.file(draw, path)
        else:
            other = draw.choice(("step_-1", "step_x", "step_999999999999", "step_000001", "é", ""))
            path.rename(path.with_name(f"{other}.safetensors"))
    if draw.random() < 0.3:
        (copy / "ensemble.json").unlink(missing_ok=True)
    called(("ensemble", str(copy), "--points", draw.choice(("0", "2"))))
    if draw.random() < 0.3:
        findings(draw, copy, base)


def tuning_files(draw: random.Random, folder: Path, base: Path) -> None:
    """A tuning whose files are spoiled, which the same command continues, or whose configuration
    is trained."""
    tuning = Path(shutil.copytree(base.parent / TUNING, folder / "runs" / TUNING))
    files = [path for path in sorted(tuning.rglob("*")) if path.is_file()]
    for path in draw.sample(files, min(draw.randint(1, 2), len(files))):
        spoiled.file(draw, path)
    if draw.random() < 0.6:
        called(TUNE)
        return
    called(("train", "--config", str(tuning / "tuned.toml"), "--steps", "3", "--no-open"))


def column(draw: random.Random, folder: Path, base: Path) -> None:
    """A run in which one field, or two, of all records of a kind have other numbers: the types fit,
    so that the rules of triage read them."""
    source = base if draw.random() < 0.3 else base.parent / "loop-1"
    fields = [field for field in _fields(source) if field.line is not None and field.place]
    kind = draw.choice(sorted({field.kind for field in fields}))
    if draw.random() < 0.4:
        kind = draw.choice([name for name in sorted({f.kind for f in fields}) if "triage" in name
                            or "signs" in name] or [kind])  # fmt: skip
    copy = Path(shutil.copytree(source, folder / "run"))
    of_kind = [field for field in fields if field.kind == kind]
    for field in draw.sample(of_kind, min(draw.randint(1, 2), len(of_kind))):
        _break_column(draw, copy, field)
    run = Run.open(copy)
    diagnosis = diagnose(run)
    for finding in diagnosis.findings:
        assert str(say(finding))
    findings(draw, copy, base)


def _break_column(draw: random.Random, run: Path, field: Field) -> None:
    """Put other values in the place of this field, in every line that has it."""
    path = run / field.file
    rows = path.read_text().splitlines()
    share = draw.choice((0.1, 0.5, 1.0))
    constant: Any = draw.choice(NUMBERS)
    varies = draw.random() < 0.4
    for place, row in enumerate(rows):
        record = json.loads(row)
        if draw.random() > share or not isinstance(record, dict):
            continue
        try:
            value = value_at(record, field.place)
        except (KeyError, IndexError, TypeError):
            continue
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            changed = other_value(draw, replace(field, line=place), run)
        elif isinstance(value, str) and value not in ("nan", "inf", "-inf"):
            changed = draw.choice((value[:-1], value + "x", ""))
        elif isinstance(value, int):
            changed = draw.choice((0, 1, -1, value * 2, value + 1, 2**40))
        else:
            changed = draw.choice(NUMBERS) if varies else constant
            if draw.random() < 0.3 and isinstance(value, float) and math.isfinite(value):
                changed = value * draw.choice((-1.0, 1e-9, 1e9))
        try:
            rows[place] = json.dumps(_with(record, field.place, changed))
        except (KeyError, IndexError, TypeError):
            continue
    path.write_text("\n".join(rows) + "\n")
