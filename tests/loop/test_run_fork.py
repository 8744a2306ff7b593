"""Forks of a run: kept in its folder, continued after a kill, and without a trace in the run
itself."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from forked_run import fork_of, was_finished
from gradiometer import BadArgument, Run, RunDamaged
from gradiometer.jobs.pool import Here
from gradiometer.loop import Rate, forks_of
from gradiometer.loop.recorded.record import ForkRecord, Plan
from gradiometer.problems import load
from gradiometer.run import Configuration
from gradiometer.run.checkpoints import checkpoint_steps
from gradiometer.train import train
from gradiometer.train.restoring import default_step

ALTERNATIVES = ["rate 2x", "batch 2x, rate sqrt"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of 200 steps, of 10 examples each."""
    configuration = Configuration(
        problem="quadratic", batch_size=10, epochs=1, every=50, learning_rate=0.02
    )
    return train(load("quadratic"), configuration, tmp_path_factory.mktemp("runs"))


@pytest.fixture
def run(finished: Run, tmp_path: Path) -> Run:
    """A copy of it, without forks."""
    import shutil

    return Run.open(shutil.copytree(finished.path, tmp_path / finished.name))


def contents(run: Run) -> dict[str, str]:
    """A hash of every file of a run, without its forks."""
    return {
        str(path.relative_to(run.path)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(run.path.rglob("*"))
        if path.is_file() and "forks" not in path.parts
    }


def numbers(record: ForkRecord) -> list[dict]:
    """The results without their times."""
    return [{**result.to_dict(), "seconds": 0} for result in record.fork.results]


def test_a_fork_leaves_the_run_as_it_was(run: Run) -> None:
    before = contents(run)
    record = fork_of(run, ALTERNATIVES, horizon="10 updates", replicates=2)
    assert contents(run) == before
    assert record.path == run.path / "forks" / "0001" and record.finished and not record.running
    assert [result.alternative for result in record.fork.results] == 2 * [
        "go on",
        "rate 2x",
        "batch 2x, rate 1.41x",
    ]
    assert (record.plan.step, record.plan.horizon, record.plan.left) == (100, 100, 1000)
    (again,) = forks_of(Run.open(run.path))
    assert numbers(again) == numbers(record) and again.plan == record.plan and again.finished


def test_a_fork_that_was_stopped_continues_from_its_finished_branches(run: Run) -> None:
    def stop(_, done: int, __: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    asked = {"horizon": "10 updates", "replicates": 2}
    with pytest.raises(KeyboardInterrupt):
        fork_of(run, ALTERNATIVES, **asked, progress=stop)
    (half,) = forks_of(run)
    assert len(half.fork.results) == 3 and not half.finished
    first = half.branches_path.read_bytes()
    assert not was_finished(run, ALTERNATIVES, **asked)
    lines = half.branches_path.read_bytes()
    assert lines.startswith(first) and len(lines.splitlines()) == 6
    assert was_finished(run, ALTERNATIVES, **asked) and half.branches_path.read_bytes() == lines
    assert fork_of(run, ALTERNATIVES, **asked, seed=1).name == "0002"


def test_a_pool_that_is_given_stays_open(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[str] = []
    monkeypatch.setattr(Here, "close", lambda _: closed.append("closed"))
    fork_of(run, ["rate 2x"], horizon="4 updates", replicates=1, pool=Here())
    assert not closed
    fork_of(run, ["rate 2x"], horizon="4 updates", replicates=1, pool="here", seed=1)
    assert len(closed) == 1


def test_lines_that_do_not_fit_are_named_and_their_branches_trained_again(run: Run) -> None:
    asked = {"horizon": "10 updates", "replicates": 2}
    record = fork_of(run, ["rate 2x"], **asked)
    whole = numbers(record)
    lines = record.branches_path.read_text().splitlines()
    other, negative = json.loads(lines[1]), json.loads(lines[2])
    other["result"]["alternative"] = "rate 3x"
    negative["result"]["updates"] = -1
    torn = lines[3][: len(lines[3]) // 2]
    spoiled = "\n".join([lines[0], json.dumps(other), json.dumps(negative), torn])
    record.branches_path.write_text(spoiled)
    plan = json.loads((record.path / "fork.json").read_text())
    (record.path / "fork.json").write_text(json.dumps({**plan, "stops": None}))
    (damaged,) = forks_of(run)
    assert [result.alternative for result in damaged.fork.results] == ["go on"]
    torn_line, first, second, *_ = damaged.warnings
    assert first.startswith(
        "0001/branches.jsonl:2: not a branch of this fork (the plan has no 'rate 3x'"
    )
    assert (
        "branches.jsonl:3: not a branch of this fork (Expected `int` >= 0 - at `$.updates`): "
        "skipped." in second
    )
    assert torn_line == "branches.jsonl:4: the last line is incomplete: skipped."
    mended = fork_of(run, ["rate 2x"], **asked)
    assert numbers(mended) == whole
    assert (mended.path / "branches.damaged.jsonl").read_text() == spoiled


def test_a_plan_that_cannot_be_read_is_named_and_left_out(run: Run) -> None:
    record = fork_of(run, ["rate 2x"], horizon="5 updates", replicates=1)
    (record.path / "fork.json").write_text('{"format": 1, "plan": {"step": "ten"}}')
    assert forks_of(run) == ()
    (warning,) = run.warnings
    assert warning.startswith("forks/0001/fork.json cannot be read: left out (")
    assert (
        "fork.json` is not the plan of a fork: Expected `int`, got `str` - at `$.plan.step`"
        in warning
    )
    (record.path / "fork.json").write_text('{"format": 2}')
    with pytest.raises(RunDamaged, match="written by a newer gradiometer"):
        ForkRecord.open(record.path)


def test_a_race_spends_its_budget_at_most_and_is_continued(run: Run) -> None:
    record = fork_of(run, ["rate 4x", "rate 0.1x"], budget=1.0)
    results = [json.loads(line)["result"] for line in record.branches_path.read_text().splitlines()]
    assert sum(result["examples"] for result in results) <= 2000
    assert record.finished and record.fork.horizon == record.plan.horizon
    assert was_finished(run, ["rate 4x", "rate 0.1x"], budget=1.0)


def test_skipped_batches_are_those_of_the_run(run: Run) -> None:
    record = fork_of(run, ["skip 110:115"], horizon="30 updates", replicates=1)
    assert record.plan.own_until == 115
    ours, skipped = record.fork.results
    assert (ours.updates, skipped.updates, skipped.examples) == (30, 25, 300)


def test_the_step_of_a_fork_is_the_middle_or_the_newest_checkpoint(run: Run) -> None:
    assert default_step(run) == 100
    events = run.events_path
    events.write_text(
        "".join(line for line in events.read_text().splitlines(True) if '"finished"' not in line)
    )
    assert default_step(Run.open(run.path)) == checkpoint_steps(run)[0] == 200


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        (
            {"horizon": "101 updates"},
            "`horizon` is 1,010 examples, and 1,000 are left of the training",
        ),
        ({"horizon": "soon"}, "`horizon` must be a length with its unit"),
        ({"at": 201}, "`at` must be between 0 and 200, the last step on record, got 201"),
        ({"at": -1}, "`at` must be between 0 and 200"),
        ({"at": 200}, "`at` 200 is the end of the run, where nothing is left"),
        ({"replicates": 0}, "`replicates` must be at least 1, got 0"),
        ({"replicates": 10**9}, "`replicates` must be at most 10,000, got 1,000,000,000"),
        (
            {"horizon": "end", "replicates": 1},
            "`replicates` must be at least 2 with the horizon 'end', got 1",
        ),
        ({"horizon": "1e308 updates"}, "`horizon` is inf examples"),
        ({"budget": float("nan")}, "`budget` must be positive and finite, got nan"),
        ({"budget": 0.001}, "`budget` pays for"),
        ({"budget": 1.0, "replicates": 4}, "`replicates` is given together with `budget`"),
        ({"alternatives": ["rate 2x", "rate 2x"]}, "`alternatives` has 'rate 2x' twice"),
        ({"alternatives": []}, "`alternatives` must be a list of at least one"),
        ({"alternatives": ["speed 2x"]}, "`alternatives` names 'speed 2x', which is not one"),
        (
            {"alternatives": ["skip 90:95"]},
            "`skip` 90:95 is not within the branches, which go from step 100",
        ),
        ({"pool": "cluster"}, "`pool`"),
    ],
)
def test_what_does_not_fit_the_run_is_refused_before_anything_is_kept(
    run: Run, asked: dict, sentence: str
) -> None:
    with pytest.raises(BadArgument) as refused:
        fork_of(run, **{"alternatives": ["rate 2x"], **asked})
    assert sentence in str(refused.value)
    assert forks_of(run) == ()


def test_a_run_on_other_data_is_refused(run: Run) -> None:
    manifest = run.manifest_path
    manifest.write_text(manifest.read_text().replace('fingerprint = "', 'fingerprint = "0'))
    with pytest.raises(BadArgument, match="was trained on data with fingerprint 0"):
        fork_of(Run.open(run.path), ["rate 2x"])


def test_plans_are_equal_after_a_round_trip_through_json(tmp_path: Path) -> None:
    from gradiometer.loop import alternative_of
    from gradiometer.loop.comparison.racing import Rung

    texts = [
        "follow Cosine(0.1, steps=500)",
        "skip 3:5",
        "AdamW(lr=0.001) & clip 1",
        "weight decay 0.01",
    ]
    plan = Plan(
        3,
        tuple(map(alternative_of, texts)),
        2,
        640,
        "half",
        7,
        900,
        5,
        (Rung(320, 2), Rung(640, 2)),
    )
    kept = ForkRecord.keep(tmp_path, plan)
    assert ForkRecord.open(kept.path).plan == plan
    assert ForkRecord.keep(tmp_path, plan).path == kept.path
    assert ForkRecord.keep(tmp_path, Plan(3, (Rate(2),), 2, 640)).name == "0002"


@pytest.mark.slow
def test_processes_give_the_same_bits(run: Run, tmp_path: Path) -> None:
    import shutil

    other = Run.open(shutil.copytree(run.path, tmp_path / "other"))
    here = fork_of(run, ALTERNATIVES, replicates=2)
    apart = fork_of(other, ALTERNATIVES, replicates=2, pool="processes:2")
    assert numbers(here) == numbers(apart)


@pytest.mark.slow
def test_a_killed_fork_continues(run: Run) -> None:
    asked = ["rate 0.5x", "rate 2x", "--replicates", "40", "--horizon", "100%"]
    process = subprocess.Popen(
        [sys.executable, "-m", "gradiometer", "fork", str(run.path), *asked],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    branches = run.path / "forks" / "0001" / "branches.jsonl"
    try:
        while not (branches.is_file() and branches.read_bytes().count(b"\n") > 3):
            assert process.poll() is None
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    (half,) = forks_of(run)
    done = branches.read_bytes().splitlines()[: len(half.fork.results)]
    assert 3 < len(done) < 120 and not half.finished and not half.running
    record = fork_of(run, ["rate 0.5x", "rate 2x"], replicates=40, horizon="100%")
    assert record.path == half.path and record.finished
    lines = branches.read_bytes().splitlines()
    assert lines[: len(done)] == done
    names = [json.loads(line)["name"] for line in lines if line.endswith(b"}")]
    assert len(names) == len(set(names)) == 120


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        "null",
        '{"format": "new", "plan": {}}',
        '{"format": 1, "plan": 3, "stops": null}',
        "[" * 5000,
    ],
)
def test_a_plan_file_with_anything_in_it_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "fork.json").write_text(content)
    with pytest.raises(RunDamaged, match=r"fork.json` is not the plan of a fork|newer gradiometer"):
        ForkRecord.open(tmp_path)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("alternative", ["rate 2x"]),
        ("replicate", 2),
        ("replicate", True),
        ("replicate", -1),
        ("horizon", 99),
        ("updates", 1.5),
        ("seconds", "nan"),
        ("seconds", "long"),
        ("curve", 3),
        ("curve", [[1]]),
        ("readouts", {}),
        ("readouts", {"test_loss": {"mean": "inf", "values": None, "lower_is_better": True}}),
        ("readouts", {"test_loss": {"mean": 1.0, "values": "no base64!", "lower_is_better": True}}),
        ("diverged", 7),
    ],
)
def test_a_line_with_anything_in_it_is_left_out(run: Run, field: str, value: object) -> None:
    record = fork_of(run, ["rate 2x"], horizon="5 updates", replicates=2)
    first, *others = record.branches_path.read_text().splitlines()
    line = json.loads(first)
    line["result"][field] = value
    record.branches_path.write_text("\n".join([json.dumps(line), *others]) + "\n")
    (damaged,) = forks_of(run)
    assert len(damaged.fork.results) == 3
    assert damaged.warnings[0].startswith("0001/branches.jsonl:1: not a branch of this fork (")


def test_a_record_with_a_spoiled_horizon_is_refused_in_words_about_the_fork(run: Run) -> None:
    record = fork_of(run, ["rate 2x"], horizon="5 updates", replicates=2)
    plan = json.loads((record.path / "fork.json").read_text())
    plan["plan"]["horizon"] = 777
    (record.path / "fork.json").write_text(json.dumps(plan))
    (spoiled,) = forks_of(run)
    assert len(spoiled.warnings) >= 4  # each line says that it is no branch of this plan
    with pytest.raises(BadArgument) as refusal:
        spoiled.fork.effects()
    assert "no finished branch of 'go on' with 777 examples" in str(refusal.value)
    assert "`baseline`" not in str(refusal.value)
