"""Work that a harness stops: its command, and what it has done so far."""

import hashlib
import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gradiometer import Examples, Objective, Run, tune, watch
from gradiometer.convergence.certificate.certifying import gradient_squared
from gradiometer.integrations.watch import Watch
from gradiometer.loop import Loop, fork, forks_of
from gradiometer.measurement import supervised
from gradiometer.run.checkpoints import load_latest
from gradiometer.run.reader import HISTORY
from gradiometer.storage.journal import read_journal

Facts = dict[str, Any]


def hashed(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def of_a_training(folder: Path) -> Facts:
    """What is on record: losses, readings, events, the newest checkpoint and the snapshots."""
    found = sorted(folder.glob("runs/*/run.toml"))
    if not found:
        return {}
    run = Run.open(found[0].parent)
    checkpoint, damaged = load_latest(run)
    complaints = [text for text in run.warnings if not text.endswith("skipped.")]
    assert not damaged and not complaints, (damaged, complaints)
    names = [
        f"{event['event']} {event['step']}" for event in run.events if event["event"] not in HISTORY
    ]
    steps, losses = run.losses
    facts: Facts = {
        "losses": dict(zip(steps.tolist(), map(float.hex, losses.tolist()), strict=True)),
        "readings": {
            f"{gauge} {step}": 1
            for gauge in run.gauges
            for step in run.series(gauge).steps.tolist()
        },
        "events": {name: names.count(name) for name in names},
        "snapshots": {
            path.name: hashed(path.read_bytes()) for path in run.snapshots_path.glob("[!.]*")
        },
        "step": 0,
        "status": run.status,
    }
    if checkpoint is not None:
        tensors = {
            name: hashed(each.numpy().tobytes())
            for name, each in sorted(checkpoint.tensors.items())
        }
        facts |= {"step": checkpoint.step, "tensors": tensors}
    assert set(range(facts["step"])) <= set(facts["losses"]), "a loss before the checkpoint is lost"
    return facts


def branches(path: Path) -> dict[str, str]:
    """The finished branches and lanes below a folder, without their times."""
    found = {}
    journals = (*path.rglob("branches.jsonl"), *path.rglob("race.jsonl"))
    for file in sorted(journals):
        for _, record in read_journal(file)[0]:
            # two forks may have a branch like it, and a run has the forks of its tuning
            place = str(file.parent.relative_to(path))
            # work that was stopped before it had a run begins in the next folder
            name = f"{re.sub(r'-[0-9]+/', '/', place)}: {record['name']}"
            assert name not in found, f"{name}: trained again after it had finished"
            found[name] = json.dumps(record["result"] | {"seconds": 0}, sort_keys=True)
    return found


def of_a_fork(folder: Path) -> Facts:
    """The finished branches without their times, and a hash of every file of the run."""
    (path,) = (each.parent for each in folder.glob("runs/*/run.toml"))
    own = (each for each in sorted(path.rglob("*")) if each.is_file() and "forks" not in each.parts)
    files = {each.name: hashed(each.read_bytes()) for each in own if "report.html" not in each.name}
    return {
        "branches": branches(path),
        "files": files,
        "finished": [each.finished for each in forks_of(Run.open(path))],
    }


def of_the_output(folder: Path) -> Facts:
    """The first JSON that was printed, if it is complete and no error; work of this kind keeps
    nothing else."""
    printed = (folder / "out").read_text() if (folder / "out").exists() else ""
    try:
        found, _ = json.JSONDecoder().raw_decode(printed)
    except ValueError:
        return {}
    if not isinstance(found, dict | list) or "error" in found:
        return {}
    return {"printed": found}


def of_tuning(folder: Path) -> Facts:
    """The finished branches, and the choice that was printed."""
    return {"branches": branches(folder / "runs"), **of_the_output(folder)}


def of_a_tuned_training(folder: Path) -> Facts:
    """The training, and the lanes and forks that it comes from."""
    return {"branches": branches(folder / "runs"), **of_a_training(folder)}


def of_a_look(folder: Path) -> Facts:
    """What was printed about a run, without times, and a hash of every file of the run but its
    page."""
    (path,) = (each.parent for each in folder.glob("runs/*/run.toml"))
    files = {
        str(each.relative_to(path)): hashed(each.read_bytes())
        for each in path.rglob("*")
        if each.is_file() and not each.name.startswith((".", "report.html"))
    }
    return {"files": files, **of_the_output(folder)}


def of_a_watched_loop(folder: Path) -> Facts:
    """What `watch` has recorded up to the newest checkpoint of the person, the parameters, and the
    finished branches of forks that the loop asks for."""
    kept = folder / "kept.pt"
    if not kept.exists():
        return {"step": 0, "losses": {}}
    state = torch.load(kept)
    # a loop that was stopped before its first checkpoint has left another run
    path = folder / state["watch"]["run"]
    steps, losses = Run.open(path).losses
    known = dict(zip(steps.tolist(), map(float.hex, losses.tolist()), strict=True))
    assert set(range(state["step"])) <= set(known), "a loss before the checkpoint is lost"
    tensors = {name: hashed(each.numpy().tobytes()) for name, each in state["model"].items()}
    return {
        "step": state["step"],
        "losses": known,
        "tensors": tensors,
        "branches": branches(path),
    }


def of_a_checked_loop(folder: Path) -> Facts:
    """The same, and the names of the certificates and surveys of curvature that were kept."""
    facts = of_a_watched_loop(folder)
    if facts["step"]:
        run = folder / torch.load(folder / "kept.pt")["watch"]["run"]
        kept = (*run.glob("certificates/[!.]*"), *run.glob("curvature/[!.]*"))
        facts["checks"] = {each.name: 1 for each in kept}
    return facts


def of_files(folder: Path) -> Facts:
    """A hash of every file of the run but its page, for commands that print times."""
    return {"files": of_a_look(folder)["files"]}


def of_a_library_call(folder: Path) -> Facts:
    """The finished branches and lanes below the folder that the call keeps them in."""
    return {"branches": branches(folder / "kept")}


def of_trials(folder: Path) -> Facts:
    """The same without the branches: how many trials are made depends on the time they take."""
    return {**of_a_watched_loop(folder), "branches": {}}


INPUTS = torch.randn(256, 6, generator=torch.Generator().manual_seed(0))
LABELS = (INPUTS.sum(1) > 0).long()
LOSS = supervised(nn.CrossEntropyLoss(reduction="none"))


def parts() -> tuple[nn.Module, torch.optim.Optimizer]:
    """The model and the optimizer of the loops below, at their start."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))
    return model, torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)


def watched_loop(
    steps: int = 120, asked: Callable[[Watch, int], object] = lambda *_: None, **settings: Any
) -> None:
    """A loop of a person, who keeps a checkpoint with the state of the watch.

    Args:
        asked: What the person asks of the watch before a step.
    """
    model, optimizer = parts()
    kept, first = Path("kept.pt"), 0
    with watch(model, optimizer, loss=LOSS, every=5, quiet=True, **settings) as watched:
        if kept.exists():
            state = torch.load(kept)
            first = state["step"]
            model.load_state_dict(state["model"])
            optimizer.load_state_dict(state["optimizer"])
            watched.load_state_dict(state["watch"])
        for step in range(first, steps):
            asked(watched, step)
            rows = torch.arange(16 * step, 16 * step + 16) % 256
            batch = INPUTS[rows], LABELS[rows]
            optimizer.zero_grad()
            loss = LOSS(model, batch).mean()
            loss.backward()
            watched.step(loss, batch)
            optimizer.step()
            if step % 20 == 19:
                state = {
                    "step": step + 1,
                    "model": model.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "watch": watched.state_dict(),
                }
                torch.save(state, ".kept.partial")
                os.replace(".kept.partial", kept)  # noqa: PTH105 (the harness counts this call)


def forking_loop() -> None:
    """A loop that asks for a fork at two of its steps."""

    def asked(watched: Watch, step: int) -> None:
        if step in (40, 80):
            watched.fork(
                batches=(INPUTS, LABELS),
                batch_size=16,
                alternatives=["rate 2x"],
                horizon="10 updates",
                replicates=2,
            )

    watched_loop(asked=asked)


def averaging_loop() -> None:
    """A loop that keeps snapshots and asks what their average is worth."""

    def asked(watched: Watch, step: int) -> None:
        if step in (40, 60, 80):
            watched.snapshot()
        if step == 100:
            watched.ensemble((INPUTS, LABELS), points=0)

    watched_loop(asked=asked)


def trying_loop() -> None:
    """A loop with trials on its way."""
    watched_loop(steps=400, trials=0.5, examples=256, replacement=False)


def checking_loop() -> None:
    """A loop that asks whether it has converged, and how sharp the minimum is."""

    # a loop that goes on does not have the parameters of its first step
    at_start = gradient_squared(Objective(parts()[0], LOSS), Examples((INPUTS, LABELS)))[0]

    def asked(watched: Watch, step: int) -> None:
        if step == 60:
            watched.certify((INPUTS, LABELS), batches=8, batch_size=8, start=at_start)
        if step == 100:
            watched.sharpness((INPUTS, LABELS), top=1, probes=4)

    watched_loop(asked=asked)


def library_fork() -> None:
    """`fork` of a program, with a folder in which its branches are kept."""
    model, optimizer = parts()
    loop = Loop(model, optimizer, loss=LOSS, batches=(INPUTS, LABELS), batch_size=16)
    fork(loop, ["rate 2x"], horizon="20 updates", replicates=4, out=Path("kept"))


def library_tune() -> None:
    """`tune` of a program, with a folder in which its lanes are kept."""
    tune(
        parts()[0],
        loss=LOSS,
        batches=(INPUTS, LABELS),
        batch_size=16,
        steps=100,
        out=Path("kept"),
    )


def loop_to_fork() -> Loop:
    """The state of `watched_loop` from which `fork --loop` goes on."""
    model, optimizer = parts()
    state = torch.load("kept.pt")
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return Loop(model, optimizer, loss=LOSS, batches=(INPUTS, LABELS), batch_size=16, index=120)


PROGRAMS: dict[str, Callable[[], None]] = {
    each.__name__: each
    for each in (
        *(watched_loop, forking_loop, averaging_loop, trying_loop, checking_loop),
        *(library_fork, library_tune),
    )
}
"""What a person would start with Python; the other works are commands."""


@dataclass(frozen=True)
class Work:
    """A command that can be killed.

    Args:
        begin: Its arguments.
        facts: What it has done so far, in a folder.
        ground: Arguments of a command that makes what it works on.
    """

    begin: tuple[str, ...]
    facts: Callable[[Path], Facts]
    ground: tuple[str, ...] = ()


QUIET = ("--no-open",)
OFTEN = (*QUIET, "--every", "5", "--set", "checkpoint_seconds=0.02")
DIGITS = ("train", "digits", "--model", "mlp", "--steps", "80", *OFTEN)
FORKED = ("train", "digits", "--model", "mlp", "--steps", "160", *OFTEN)
KEPT = ("train", "digits", "--model", "mlp", "--steps", "80", "--snapshots", "3", *OFTEN)
SPIKED = ("train", "planted_incidents:outlier_small", "--name", "outlier", "--batch", "16",
          "--steps", "160", "--set", "checkpoint_at=100", *OFTEN)  # fmt: skip
"""A training with an outlier in the batch of step 120."""
RUN = "runs/digits-mlp-1"
LOG = Path(__file__).parent.parent / "logs" / "plain_restarted.jsonl"
WORKS = {
    "momentum": Work((*DIGITS, "--schedule", "cosine", "--momentum", "0.9"), of_a_training),
    "adamw": Work((*DIGITS, "--optimizer", "adamw", "--lr", "0.001"), of_a_training),
    "snapshots": Work((*DIGITS, "--snapshots", "3"), of_a_training),
    "accumulation": Work((*DIGITS, "--accumulation", "4", "--weight-decay", "0.01"), of_a_training),
    "replacement": Work(
        (*DIGITS, "--set", "sampling=replacement", "--schedule", "0.1/sqrt(t)"), of_a_training
    ),
    "kept checkpoints": Work(
        (*DIGITS, "--set", "checkpoint_at=10,33", "--set", "keep_checkpoints=1"), of_a_training
    ),
    "probe": Work(
        (*DIGITS, "--set", "probe=yes", "--set", "nesterov=yes", "--momentum", "0.5"), of_a_training
    ),
    "quadratic": Work(("train", "quadratic", "--steps", "200", *OFTEN), of_a_training),
    "logistic": Work(("train", "logistic-regression", "--steps", "200", *OFTEN), of_a_training),
    "fork": Work(
        ("fork", RUN, "rate 2x", "rate 0.5x", "--horizon", "10 updates"), of_a_fork, FORKED
    ),
    "race": Work(("fork", RUN, "rate 2x", "rate 0.1x", "--budget", "2"), of_a_fork, FORKED),
    "tune": Work(("tune", "digits", "--model", "mlp", "--steps", "60", "--json"), of_tuning),
    "fork --advice": Work(("fork", RUN, "--advice"), of_a_fork, FORKED),
    "fork --pool processes": Work(
        ("fork", RUN, "rate 2x", "--horizon", "10 updates", "--pool", "processes:1"),
        of_a_fork,
        FORKED,
    ),
    "fork --pool ray": Work(
        ("fork", RUN, "rate 2x", "--horizon", "10 updates", "--pool", "ray"), of_a_fork, FORKED
    ),
    "tune --pool processes": Work(
        ("tune", "quadratic", "--steps", "100", "--json", "--pool", "processes:1"), of_tuning
    ),
    "measure batch": Work(("measure", "batch", RUN, "--seconds", "0"), of_files, KEPT),
    "sample --chains": Work(
        (
            "learn",
            "sample",
            "linear-regression",
            "--chains",
            "2",
            "--steps",
            "400",
            "--burn-in",
            "50",
            "--json",
        ),
        of_the_output,
    ),
    "train --tune": Work(
        ("train", "quadratic", "--tune", "--tune-budget", "2", "--steps", "100", *OFTEN),
        of_a_tuned_training,
    ),
    "ensemble": Work(("ensemble", RUN, "--points", "0", "--json"), of_a_look, KEPT),
    "certificate": Work(
        ("measure", "certificate", RUN, "--examples", "64", "--batches", "8", "--json"),
        of_a_look,
        KEPT,
    ),
    "sharpness": Work(
        ("measure", "sharpness", RUN, "--examples", "64", "--top", "1", "--probes", "4", "--json"),
        of_a_look,
        KEPT,
    ),
    "show": Work(("show", RUN, "--no-open", "--json"), of_a_look, KEPT),
    "doctor": Work(("doctor", str(LOG), "--json"), of_the_output),
    "runs": Work(("runs", "list", "runs", "--page", "page.html"), of_a_look, KEPT),
    "export": Work(("runs", "export", RUN, "--out", "table.csv"), of_a_look, KEPT),
    "learn schedule": Work(("learn", "schedule", "1/t", "--json"), of_the_output),
    "fork --spike": Work(("fork", "runs/outlier-1", "--spike", "120"), of_a_fork, SPIKED),
    "fork --loop": Work(
        (
            "fork",
            "runs/loop-1",
            "rate 2x",
            "--horizon",
            "10 updates",
            "--replicates",
            "2",
            "--loop",
            "works:loop_to_fork",
        ),
        of_a_fork,
        ("watched_loop",),
    ),
    "rate forks": Work((*DIGITS, "--set", "fork_budget=1"), of_a_tuned_training),
    "cooling": Work((*FORKED, "--cool", "auto"), of_a_tuned_training),
    "watched loop": Work(("watched_loop",), of_a_watched_loop),
    "w.fork": Work(("forking_loop",), of_a_watched_loop),
    "w.ensemble": Work(("averaging_loop",), of_a_watched_loop),
    "w.certify": Work(("checking_loop",), of_a_checked_loop),
    "trials": Work(("trying_loop",), of_trials),
    "fork(out=)": Work(("library_fork",), of_a_library_call),
    "tune(out=)": Work(("library_tune",), of_a_library_call),
}


def is_training(work: Work) -> bool:
    """True if a run of this work is continued by `resume`."""
    return work.facts in (of_a_training, of_a_tuned_training)
