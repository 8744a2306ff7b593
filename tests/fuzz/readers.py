"""Commands that read a run: each is given runs in which one field of one record is broken."""

import random
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

from fields import Field, fields_of, other_value
from fork_kinds import ASKED, called

from gradiometer import Run, diagnose
from gradiometer.convergence.certificate import Certificate
from gradiometer.drift.curvature_survey import Survey
from gradiometer.exploration.ensembles.ensemble_report import EnsembleReport
from gradiometer.loop import forks_of
from gradiometer.loop.branches import sentence, stopped
from gradiometer.report.live import Followed
from gradiometer.run.artifacts import load_artifacts

TUNE = ("tune", "quadratic", "--steps", "24", "--budget", "2")
TUNING = "quadratic-position-tuning"
Reader = Callable[[random.Random, Path, Path], None]


def findings(_: random.Random, run: Path, __: Path) -> None:
    """What all commands begin with: the findings, and what every record says."""
    opened = Run.open(run)
    diagnose(opened).to_dict()
    for made in forks_of(opened):
        assert all(made.warnings)
        sentence(made.fork, made.fork.effects())
        stopped(made.stops or ())
    for kind in (Certificate, Survey, EnsembleReport):
        for found in load_artifacts(opened, kind):
            str(found.estimates if isinstance(found, Certificate) else found)
    assert all(opened.warnings)


def show(_: random.Random, run: Path, __: Path) -> None:
    called(("show", str(run), "--no-open"))


def live(_: random.Random, run: Path, __: Path) -> None:
    """What the server does for a page and its update."""
    view = Followed(run).latest()
    view.page("/live/", [("/live/", run.name)])
    view.update("/live/")


def runs(_: random.Random, run: Path, __: Path) -> None:
    called(("runs", "list", str(run.parent), "--page", str(run.parent / "runs.html")))


def compare(draw: random.Random, run: Path, other: Path) -> None:
    both = [str(run), str(other)] if draw.random() < 0.5 else [str(other), str(run)]
    called(("runs", "compare", *both, "--no-open", "--out", str(run.parent / "compare.html")))


def export(draw: random.Random, run: Path, _: Path) -> None:
    what = draw.choice(("readings", "losses", "evaluations"))
    called(("runs", "export", str(run), "--out", str(run.parent / "table.csv"), "--what", what))


def doctor(draw: random.Random, run: Path, _: Path) -> None:
    called(("doctor", str(draw.choice((run, run / "readings.jsonl", run / "events.jsonl")))))


def batch(_: random.Random, run: Path, __: Path) -> None:
    called(("measure", "batch", str(run), "--seconds", "0"))


def ensemble(_: random.Random, run: Path, __: Path) -> None:
    called(("ensemble", str(run), "--points", "0"))


def fork(_: random.Random, run: Path, __: Path) -> None:
    """A fork that is finished, whose result is shown."""
    called(("fork", str(run), *ASKED))


def resume(_: random.Random, run: Path, __: Path) -> None:
    called(("resume", str(run), "--no-open"))


SHARES: dict[Reader, int] = {
    findings: 60,
    export: 8,
    show: 5,
    live: 5,
    compare: 4,
    runs: 4,
    batch: 4,
    ensemble: 3,
    fork: 3,
    resume: 3,
    doctor: 1,
}
"""Inputs for each reader in a hundred: pages take ten times as long as findings, which all of them
make."""

_fields = cache(fields_of)


def broken(draw: random.Random, folder: Path, source: Path) -> Field:
    """Copy a folder with one broken field to `folder / "run"`."""
    fields = _fields(source)
    # half of all draws are fair to fields, and half to kinds: an ensemble has a hundred fields, a
    # snapshot five
    kind = draw.choice(sorted({each.kind for each in fields}))
    field = draw.choice(
        fields if draw.random() < 0.5 else [each for each in fields if each.kind == kind]
    )
    copy = Path(shutil.copytree(source, folder / "run"))
    field.broken(copy, other_value(draw, field, source))
    return field


def record(random: random.Random, folder: Path, base: Path) -> None:
    """A run with a broken field, read by a command."""
    broken(random, folder, _one_of_two(random, base))
    (reader,) = random.choices([*SHARES], [*SHARES.values()])
    reader(random, folder / "run", base)


def record_findings(random: random.Random, folder: Path, base: Path) -> None:
    """A run with a broken field, whose findings are made."""
    broken(random, folder, _one_of_two(random, base))
    findings(random, folder / "run", base)


def tuning_record(random: random.Random, folder: Path, base: Path) -> None:
    """A tuning with a broken field, which the same command continues."""
    broken(random, folder, base.parent / TUNING)
    (folder / "runs").mkdir()
    (folder / "run").rename(folder / "runs" / TUNING)
    called(TUNE)


def _one_of_two(draw: random.Random, base: Path) -> Path:
    return base if draw.random() < 0.6 else base.parent / "loop-1"
