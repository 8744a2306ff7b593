"""Long work says how far it is: a line every few seconds on standard error, when that is no
terminal."""

import io
import re
import time
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
from click.shell_completion import BashComplete
from rich.console import Console

from gradiometer import diagnose
from gradiometer.cli import gradiometer, progress
from gradiometer.cli.progress import (
    Counter,
    TrainingProgress,
    counting,
    following,
    watching,
    working,
)
from gradiometer.problems import load
from gradiometer.run import Configuration, recorder
from gradiometer.train import train


def test_a_counter_prints_a_line_at_most_every_few_seconds_and_one_at_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    paper = io.StringIO()
    counter = Counter(Console(file=paper, force_terminal=False), "checks")
    for done in range(1, 101):
        now[0] += 0.2
        counter.update(done, 100)
    counter.close()
    lines = paper.getvalue().splitlines()
    assert lines[0] == "25 of 100 checks · 0:15 left", "a fifth of a second each"
    assert lines[-1] == "100 of 100 checks" and len(lines) == 4


def test_the_time_left_counts_from_where_the_pieces_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    paper = io.StringIO()
    counter = Counter(Console(file=paper, force_terminal=False), "branches")
    now[0] += 60
    counter.update(0, 10)
    now[0] += 6
    counter.update(1, 10)
    assert paper.getvalue() == "1 of 10 branches · 0:54 left\n"


def test_work_of_unknown_length_says_how_long_it_takes_and_is_silent_if_quiet(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.01)
    with working("sampling", quiet=True), counting("checks", quiet=True) as counter:
        counter.update(1, 1)
        time.sleep(0.03)
    assert capsys.readouterr().err == ""
    with working("sampling"):
        time.sleep(0.05)
    said = capsys.readouterr()
    assert said.out == "" and re.fullmatch(r"(sampling: 0 s\n)+", said.err)


def test_an_error_in_the_work_ends_its_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.01)
    with pytest.raises(ZeroDivisionError), working("sampling"):
        raise ZeroDivisionError
    capsys.readouterr()
    time.sleep(0.03)
    assert capsys.readouterr().err == ""


def test_the_shell_completes_verbs_and_flags() -> None:
    complete = BashComplete(gradiometer, {}, "gradiometer", "_GRADIOMETER_COMPLETE")
    assert [item.value for item in complete.get_completions([], "meas")] == ["measure"]
    assert "--no-open" in [item.value for item in complete.get_completions(["show"], "--no")]


def first_line(capsys: pytest.CaptureFixture[str]) -> str:
    """The first line on standard error from now on. On a busy machine the thread that prints it may
    wait for a second."""
    until = time.monotonic() + 30
    while time.monotonic() < until:
        time.sleep(0.01)
        printed = capsys.readouterr().err
        if printed:
            return printed.splitlines()[0]
    return ""


def test_a_run_says_that_it_loads_and_that_it_checks_its_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.01)
    with watching(quiet=False) as shown:
        assert shown is not None
        assert first_line(capsys).startswith("loading: ")
        shown.close()
        capsys.readouterr()
        shown.update(SimpleNamespace(step=7, steps=7, learning_rate=0.1), Mock(), 1.0)
        assert first_line(capsys).startswith("the last checks: ")
    capsys.readouterr()
    time.sleep(0.03)
    assert capsys.readouterr().err == ""


def test_a_fork_says_that_it_is_prepared_until_its_branches_begin(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.01)
    plan = SimpleNamespace(
        branches=[1, 2], names=["go on", "batch 2x, rate 1.4x"], step=7, horizon=500
    )
    with following(quiet=False) as shown:
        assert first_line(capsys).startswith("preparing the branches: ")
        shown.begin(plan)
        said = capsys.readouterr().err.splitlines()
        time.sleep(0.04)
    assert capsys.readouterr().err == ""
    assert said[-1] == "go on; batch 2x, rate 1.4x: 2 branches from step 7, 500 examples each"


def test_a_training_says_its_headline_when_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At a rate that is far too low, with a line for every step."""
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    monkeypatch.setattr(progress, "FIRST_HEADLINE", 0.0)
    monkeypatch.setattr(progress, "HEADLINE_SHARE", 1.0)
    monkeypatch.setattr(recorder, "SECONDS_BETWEEN_WRITES", 0.0)
    paper = io.StringIO()
    shown = TrainingProgress(Console(file=paper, force_terminal=False, width=80))
    configuration = Configuration(
        problem="digits", model="mlp", epochs=12, learning_rate=1e-5, schedule="constant"
    )
    run = train(load("digits", model="mlp"), configuration, tmp_path, shown)
    shown.close()
    first, page, *lines = paper.getvalue().splitlines()
    assert first.startswith("digits · mlp · ") and first.endswith(str(run.path))
    assert page == f"The page during training: gradiometer show --live {run.path}"
    steps = [line for line in lines if line.startswith("step ")]
    begins = r"step 1/540 · loss \d\.\d{4} · learning rate 1e-05 · \d+:\d\d left"
    assert re.fullmatch(begins, steps[0]) and len(steps) == run.steps - 1
    said = [line for line in lines if line.startswith("so far: ")]
    headline = diagnose(run).headline
    assert headline is not None and headline.claim == "rate_low"
    assert "learning rate" in said[-1]
    assert all(one != next_one for one, next_one in pairwise(said))
    assert run.overhead["spent"]["progress"] > 0
