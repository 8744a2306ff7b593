"""What is fuzzed: schedules, command lines, TOML, logs, run folders, checkpoints and artifacts."""

import json
import random
import shutil
from collections.abc import Callable
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path

import spoiled
from asked import any_run, asked_loop, column, snapshots, tuning_files
from command_lines import command_line
from degenerate_logs import degenerate_log
from fork_kinds import alternative, fork_arguments, fork_folder
from loops import given_norms, own_gauge, pooled_calls, python_calls, watched_loop
from readers import record, record_findings, tuning_record

from gradiometer import Run, diagnose
from gradiometer.cli.place import load_last_checkpoint, training_at_start
from gradiometer.convergence.certificate import Certificate
from gradiometer.convergence.theorem.theorem import read, theorem
from gradiometer.drift.curvature_survey import Survey
from gradiometer.exploration.ensembles.ensemble_report import EnsembleReport
from gradiometer.logs import log_findings, read_log
from gradiometer.report.page.page import render
from gradiometer.run import Configuration
from gradiometer.run.artifacts import load_artifacts
from gradiometer.run.checkpoints import STATE, SUMS, TENSORS

LOGS = Path(__file__).parent.parent / "logs"
PRINTED = (
    "iter {step}: loss {loss}, time 1.2ms",
    "Epoch {epoch}/10 {step}/500 [====] - 3s 5ms/step - loss: {loss} - lr: {lr}",
    "Epoch: [{epoch}][ {step}/500]  Time 0.1 ( 0.1)  Loss {loss} ({loss})  lr: {lr}",
    "epoch {epoch}: {step} / 1000 loss={loss}, num_updates={step}",
    "12%|#         | {step}/1000 [00:01<00:08, 100.00it/s, loss={loss}, v_num=0]",
    "{{'loss': {loss}, 'learning_rate': {lr}, 'epoch': {epoch}}}",
    "Train Epoch: {epoch} [{step}/60000 (1%)]\tLoss: {loss}",
    "step={step} train_loss={loss} val_loss {loss} lr {lr} grad_norm {loss}",
    "{step},{loss},{lr},{epoch}",
)
"""Lines that trainings print."""


def schedule(random: random.Random, _: Path) -> None:
    """A formula: its verdict, and its rates at some steps."""
    text = spoiled.text(random)
    theorem(text)
    shape = read(text)
    for step in (0, 1, 10**6):
        shape(step)


def toml(random: random.Random, folder: Path) -> None:
    """A configuration file."""
    names = [*Configuration.__struct_fields__, "x", "batch-size", ""]
    rows = []
    for _ in range(random.randint(1, 5)):
        given = spoiled.text(random) if random.random() < 0.2 else random.choice(spoiled.NASTY)
        rows.append(f"{random.choice(names)} = {json.dumps(given, ensure_ascii=False)}")
    path = folder / "run.toml"
    written = "\n".join(rows).encode("utf-8", errors="replace")
    path.write_bytes(written if random.random() < 0.8 else spoiled.content(random, written))
    Configuration.from_toml(path)


def log(random: random.Random, folder: Path) -> None:
    """A log of another tool: a spoiled one, or a made one."""
    real = sorted(path for path in LOGS.rglob("*") if path.is_file())
    source = random.choice(real)
    path = folder / source.name
    what = random.random()
    if what < 0.4:
        path.write_bytes(source.read_bytes()[:20_000])
        spoiled.file(random, path)
    elif what < 0.7:
        path = folder / random.choice(("train.log", "train.csv", "log.txt"))
        path.write_text(printed(random), encoding="utf-8", errors="replace")
    else:
        rows = []
        for step in range(random.randint(1, 60)):
            row = {
                "step": step,
                "loss": 2.0 / (step + 1),
                "lr": 0.1,
                "epoch": step // 10,
                "grad_norm": 1.0,
            }
            if random.random() < 0.3:
                row[random.choice(list(row))] = random.choice(spoiled.NASTY)
            rows.append(row)
        path = folder / "log.jsonl"
        path.write_text("\n".join(map(json.dumps, rows)))
    if path.exists() or path.is_symlink():
        log_findings(read_log(path))


def log_folder(random: random.Random, folder: Path) -> None:
    """A folder of MLflow, of Lightning or of a Trainer, with a spoiled file: whole, or a part."""
    kind = random.choice(("mlflow", "lightning", "trainer"))
    if kind == "mlflow":
        metrics = folder / "mlruns" / "0" / "4f2c" / "metrics"
        for name in ("loss", "lr", "train/grad_norm"):
            (metrics / name).parent.mkdir(parents=True, exist_ok=True)
            lines = (f"{1700000000000 + step} {2.0 / (step + 1)} {step}" for step in range(40))
            (metrics / name).write_text("\n".join(lines))
        files = sorted(path for path in metrics.rglob("*") if path.is_file())
    else:
        source = "lightning_plateau.csv" if kind == "lightning" else "hf_resumed.json"
        place = folder / ("version_0/metrics.csv" if kind == "lightning" else "trainer_state.json")
        place.parent.mkdir(exist_ok=True)
        shutil.copyfile(LOGS / source, place)
        files = [place]
    spoiled_file = random.choice(files)
    text = spoiled_file.read_text()
    if random.random() < 0.5:
        words = text.split(" ")
        words[random.randrange(len(words))] = str(random.choice(spoiled.NASTY))
        spoiled_file.write_text(" ".join(words), encoding="utf-8", errors="replace")
    else:
        spoiled.file(random, spoiled_file)
    path = random.choice((folder, *files, *files[0].parents[: len(files[0].parents) - 2]))
    if path.exists() and path.is_relative_to(folder):
        log_findings(read_log(path))


def printed(random: random.Random) -> str:
    """Printed lines, some of whose numbers are spoiled."""
    form, rows = random.choice(PRINTED), ["step,loss,lr,epoch"]
    for step in range(random.randint(1, 60)):
        row: dict[str, object] = {"step": step, "loss": 2.0 / (step + 1), "lr": 0.1, "epoch": 1}
        if random.random() < 0.2:
            row[random.choice(list(row))] = random.choice((*spoiled.NASTY, *spoiled.NUMBERS))
        rows.append(form.format(**row))
    text = "\n".join(rows)
    return spoiled.changed(random, text) if random.random() < 0.3 else text


def run_folder(random: random.Random, folder: Path, base: Path) -> None:
    """A run whose files are spoiled: its findings and its page."""
    copy = Path(shutil.copytree(base, folder / "run"))
    names = ["run.toml", "events.jsonl", "events.jsonl", "readings.jsonl", "readings.jsonl"]
    for name in random.sample(names, random.randint(1, 2)):
        if (copy / name).is_file():
            spoiled.file(random, copy / name)
    _read(random, copy)


def artifact(random: random.Random, folder: Path, base: Path) -> None:
    """A run with a spoiled certificate, survey or report of an ensemble."""
    copy = Path(shutil.copytree(base, folder / "run"))
    path = random.choice(
        [*copy.glob("certificates/*"), *copy.glob("curvature/*"), copy / "ensemble.json"]
    )
    spoiled.file(random, path)
    _read(random, copy)


def _read(random: random.Random, folder: Path) -> None:
    """Diagnose a run. Its page takes ten times as long, so that only some are drawn."""
    run = Run.open(folder)
    diagnosis = diagnose(run)
    for kind in (Certificate, Survey, EnsembleReport):
        for found in load_artifacts(run, kind):
            str(found.estimates if isinstance(found, Certificate) else found)
            assert str(found)
    assert run.warnings is not None
    if random.random() < 0.1:
        render(run, diagnosis)


def checkpoint(random: random.Random, folder: Path, base: Path) -> None:
    """A run whose newest checkpoint lies, with matching checksums: the one before is used."""
    import hashlib

    copy = Path(shutil.copytree(base, folder / "run"))
    before, newest = sorted((copy / "checkpoints").iterdir())
    path = newest / random.choice((TENSORS, STATE))
    if random.random() < 0.9 and path.name == TENSORS:
        whole = path.read_bytes()
        length = int.from_bytes(whole[:8], "little")
        header = json.dumps(spoiled.value(random, json.loads(whole[8 : 8 + length]))).encode()
        path.write_bytes(len(header).to_bytes(8, "little") + header + whole[8 + length :])
    else:
        spoiled.file(random, path)
    names = [
        each
        for each in (newest / TENSORS, newest / STATE)
        if each.is_file() and not each.is_symlink()
    ]
    sums = [f"{hashlib.sha256(each.read_bytes()).hexdigest()}  {each.name}\n" for each in names]
    (newest / SUMS).write_text("".join(sums))
    training, _ = training_at_start(copy, "certify")
    with redirect_stderr(StringIO()) as said:
        load_last_checkpoint(training, copy)
    steps = [int(each.name.removeprefix("step_")) for each in (before, newest)]
    assert training.step in steps
    assert training.step == steps[1] or "step_" in said.getvalue()


KINDS: dict[str, Callable[..., None]] = {
    each.__name__: each
    for each in (
        *(
            schedule,
            toml,
            command_line,
            log,
            log_folder,
            degenerate_log,
            run_folder,
            artifact,
            checkpoint,
        ),
        *(alternative, fork_folder, fork_arguments),
        *(record, record_findings, tuning_record),
        *(watched_loop, own_gauge, given_norms, python_calls, pooled_calls),
        *(asked_loop, any_run, snapshots, tuning_files, column),
    )
}
SHARES = {
    "schedule": 13,
    "toml": 11,
    "command_line": 8,
    "log": 8,
    "degenerate_log": 6,
    "log_folder": 2,
    "run_folder": 2,
    "artifact": 1,
    "checkpoint": 4,
    "alternative": 12,
    "fork_folder": 1,
    "fork_arguments": 1,
    "record": 8,
    "record_findings": 0,
    "tuning_record": 1,
    "watched_loop": 8,
    "own_gauge": 2,
    "given_norms": 2,
    "python_calls": 9,
    "pooled_calls": 1,
    "asked_loop": 0,
    "any_run": 0,
    "snapshots": 0,
    "tuning_files": 0,
    "column": 0,
}
"""Inputs of each kind in a hundred: fewer of those that draw a page, which takes half a second."""

assert set(SHARES) == set(KINDS) and sum(SHARES.values()) == 100
