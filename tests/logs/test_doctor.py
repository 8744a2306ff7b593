"""The doctor: real logs of the tools themselves, each named for what was done to it, and nonsense
refused."""

import json
import math
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from gradiometer import BadArgument
from gradiometer.cli.doctor import doctor
from gradiometer.logs import Log, log_findings, read_log, readers
from gradiometer.logs.log import Column
from gradiometer.logs.verdicts import rate_findings
from gradiometer.measurement import Finding, State
from gradiometer.measurement.uncertainty.means import slope
from gradiometer.verdict.words.say import say

LOGS = Path(__file__).parent

EXPECTED = {
    "hf_healthy.json": {"log_learning_rate": State.OK, "log_finite": State.OK},
    "hf_nan.json": {"log_finite": State.ACT, "log_learning_rate": State.OK},
    "hf_staircase.json": {"log_staircase": State.LOOK, "log_finite": State.OK},
    "hf_resumed.json": {"log_learning_rate": State.LOOK, "log_finite": State.OK},
    "lightning_plateau.csv": {
        "triage": State.ACT,
        "log_staircase": State.OK,
        "log_finite": State.OK,
    },
    "lightning_healthy.tfevents": {"log_staircase": State.OK, "log_finite": State.OK},
    "plain_nan.csv": {"log_finite": State.ACT},
    "plain_restarted.jsonl": {
        "log_steps": State.LOOK,
        "log_finite": State.OK,
        "log_learning_rate": State.OK,
    },
    "plain_staircase.tfevents": {"log_staircase": State.LOOK, "log_finite": State.OK},
}


def read(name: str) -> Log:
    if "tfevents" in name and find_spec("tensorboard") is None:
        pytest.skip("tensorboard is not installed")
    return read_log(LOGS / name)


def by_gauge(log: Log) -> dict[str, Finding]:
    return {finding.gauge: finding for finding in log_findings(log)}


def log_of(steps: int = 200, **columns: np.ndarray) -> Log:
    place = np.arange(steps)
    return Log(
        "made",
        "a test",
        {name: Column(name, place, np.asarray(v, float)) for name, v in columns.items()},
    )


@pytest.mark.parametrize("name", EXPECTED)
def test_a_log_is_named_for_what_was_done_to_it(name: str) -> None:
    found = by_gauge(read(name))
    assert {gauge: found[gauge].state for gauge in EXPECTED[name]} == EXPECTED[name]
    alarms = {gauge for gauge, finding in found.items() if finding.state in (State.LOOK, State.ACT)}
    assert alarms == {
        gauge for gauge, state in EXPECTED[name].items() if state in (State.LOOK, State.ACT)
    }
    assert found["log_limits"].state is State.CANNOT_TELL and (LOGS / name).stat().st_size < 100_000


def test_every_log_of_the_folder_is_expected_to_be_something() -> None:
    assert {path.name for path in LOGS.iterdir() if path.suffix != ".py" and path.is_file()} == set(
        EXPECTED
    )


def test_the_hidden_nan_is_dated_and_its_mask_named() -> None:
    found = by_gauge(read("hf_nan.json"))["log_finite"]
    norms = [
        line
        for line in json.loads((LOGS / "hf_nan.json").read_text())["log_history"]
        if "grad_norm" in line
    ]
    bad = [line["step"] for line in norms if not math.isfinite(line["grad_norm"])]
    assert (
        f"grad_norm in {len(bad)} of {len(norms)} values, first at step {bad[0]}" in say(found).seen
    )
    assert (
        "the logged loss at these steps is 0" in say(found).seen
        and "logging_nan_inf_filter" in say(found).means
    )
    zeros = read("hf_nan.json")
    bare = Log("made", "Hugging Face's Trainer", {"loss": zeros.columns["loss"]})
    assert "is exactly 0 from step" in say(by_gauge(bare)["log_finite"]).seen


def test_a_resume_that_lost_its_scheduler_is_placed() -> None:
    found = by_gauge(read("hf_resumed.json"))["log_learning_rate"]
    assert (
        "at step 200 to" in say(found).seen
        and "at step 205" in say(found).seen
        and "scheduler's state" in say(found).means
    )


def test_steps_made_twice_are_counted_and_the_later_values_count() -> None:
    log = read("plain_restarted.jsonl")
    assert "from 299 to 200" in say(by_gauge(log)["log_steps"]).seen
    assert log.losses is not None and len(log.losses) == 500 and len(log.losses.latest) == 400


@pytest.mark.parametrize("correlation", [0.0, 0.8])
def test_the_slope_covers_however_correlated_the_noise_is(correlation: float) -> None:
    generator, runs, steps = np.random.default_rng(0), 300, np.arange(400)
    noise = np.empty((runs, len(steps)))
    noise[:, 0] = generator.standard_normal(runs)
    for step in steps[1:]:
        fresh = generator.standard_normal(runs) * math.sqrt(1 - correlation**2)
        noise[:, step] = correlation * noise[:, step - 1] + fresh
    intervals = [slope(steps, 5.0 - 0.002 * steps + row) for row in noise]
    covered = np.mean([interval.low <= -2.0 <= interval.high for interval in intervals])
    # batch means of correlated readings cover a little less
    lowest = 0.9 if correlation == 0 else 0.85
    assert covered >= lowest - 3 * math.sqrt(0.09 / runs)
    assert covered <= 0.97


NOISE = 1 + 0.02 * np.random.default_rng(1).standard_normal(300)
FALLS = (0.3 + 2 * np.exp(-np.arange(300) / 60)) * NOISE
FLATTENS = (0.3 + 2 * np.exp(-np.arange(300) / 20)) * NOISE
COSINE = 0.05 * (1 + np.cos(np.pi * np.arange(300) / 300))
BURST = np.where((np.arange(300) >= 200) & (np.arange(300) < 206), 8.0, 1.0) * COSINE
HARMED = FALLS + np.where((np.arange(300) >= 200) & (np.arange(300) < 206), 6.0, 0.0)
JUMPS = FALLS + np.where(np.isin(np.arange(300) % 80, range(6)) & (np.arange(300) > 100), 2.0, 0.0)


@pytest.mark.parametrize(
    ("columns", "claim", "words"),
    [
        (
            {"loss": FLATTENS, "lr": np.full(300, 0.1)},
            "no_decay",
            "time to decay the learning rate",
        ),
        (
            {"loss": FALLS, "lr": np.where(np.arange(300) < 100, 0.1, 1e-4)},
            "decay_early",
            "from step 1,000 on",
        ),
        ({"loss": FALLS, "lr": 0.98 ** np.arange(300)}, "schedule_unit", "wrong unit"),
        ({"loss": FALLS, "lr": BURST}, "rate_burst", "from step 2,000 on it was"),
        ({"loss": HARMED, "lr": COSINE}, "bad_batch", "at step 2,000 the loss rose"),
        ({"loss": JUMPS, "lr": COSINE}, "unstable", "the loss jumped 2 times"),
        (
            {
                "loss": FALLS,
                "val_loss": np.r_[FALLS[:100], np.linspace(0.7, 1.4, 200)],
                "lr": COSINE,
            },
            "overfit",
            "was lowest at step 9",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) and " " not in value else "",
)
def test_a_log_is_judged_by_the_rules_of_triage(
    columns: dict[str, np.ndarray], claim: str, words: str
) -> None:
    steps = 10 * np.arange(300)
    log = Log(
        "made", "a test", {name: Column(name, steps, values) for name, values in columns.items()}
    )
    first = log_findings(log)[0]
    assert (first.gauge, first.claim, first.state) == ("triage", claim, State.ACT) and words in say(
        first
    ).seen
    calm = Log(
        "made", "a test", {"loss": Column("loss", steps, FALLS), "lr": Column("lr", steps, COSINE)}
    )
    assert all(each.state in (State.OK, State.CANNOT_TELL) for each in log_findings(calm))


def test_a_flat_loss_without_a_rate_may_stop() -> None:
    (found,) = (each for each in log_findings(log_of(300, loss=FLATTENS)) if each.gauge == "triage")
    assert found.claim == "may_stop" and "without" in str(say(found))


def test_no_staircase_is_seen_in_a_loss_that_knows_no_epochs() -> None:
    alarms = 0
    for seed in range(60):
        noise = np.random.default_rng(seed).standard_normal(400)
        log = log_of(
            400, loss=np.exp(-np.arange(400) / 200) + 0.5 + 0.1 * noise, epoch=np.arange(400) // 40
        )
        alarms += by_gauge(log)["log_staircase"].state is State.LOOK
    assert alarms <= 7  # at most 5 % at a one-sided level, and three standard errors


@pytest.mark.parametrize(
    ("rates", "state", "words"),
    [
        (np.linspace(1e-4, 0.1, 50), State.OK, "rises to 0.100"),
        (
            np.r_[np.linspace(1e-4, 0.1, 50), np.linspace(0.1, 1e-4, 150)],
            State.OK,
            "ends at 0.001 of its largest",
        ),
        (np.repeat([0.1, 0.01, 0.001], 60), State.OK, "steps down at 60, 120"),
        (
            np.tile(0.05 * (1 + np.cos(np.pi * np.arange(50) / 50)), 4),
            State.OK,
            "schedule with restarts",
        ),
        (np.r_[np.full(20, 0.01), np.full(80, 0.1)], State.OK, "rises to 0.100 by step 20"),
        (
            np.r_[np.linspace(0.1, 0.01, 80), np.linspace(0.1, 0.05, 40)],
            State.LOOK,
            "jumps up 1 time",
        ),
        (np.full(30, 0.1), State.OK, "constant at 0.100"),
    ],
    ids=[
        "warm-up",
        "triangle",
        "steps",
        "cycles",
        "warm-up in one step",
        "broken resume",
        "constant",
    ],
)
def test_a_schedule_differs_from_a_broken_resume(
    rates: np.ndarray, state: State, words: str
) -> None:
    (finding,) = rate_findings(log_of(len(rates), lr=rates, loss=np.ones(len(rates))))
    assert finding.state is state and words in str(say(finding))


def test_logs_are_found_in_the_folders_the_tools_make(tmp_path: Path) -> None:
    for checkpoint in ("checkpoint-100", "checkpoint-200"):
        (tmp_path / checkpoint).mkdir()
        shutil.copy(LOGS / "hf_healthy.json", tmp_path / checkpoint / "trainer_state.json")
    assert "checkpoint-200" in read_log(tmp_path).path
    version = tmp_path / "lightning_logs" / "version_0"
    version.mkdir(parents=True)
    shutil.copy(LOGS / "lightning_plateau.csv", version / "metrics.csv")
    log = read_log(tmp_path / "lightning_logs")
    assert (
        log.tool == "Lightning's CSV" and log.losses is not None and log.losses.name == "train_loss"
    )


def test_held_out_losses_are_not_taken_for_training_and_a_name_can_be_given() -> None:
    log = log_of(20, eval_loss=np.ones(20), my_objective=np.arange(20), **{"val/loss": np.ones(20)})
    assert (
        log.losses is None
        and "no training loss (name its column with --loss)"
        in say(by_gauge(log)["log_limits"]).seen
    )
    named = Log(log.path, log.tool, log.columns, (), "my_objective")
    assert named.losses is not None and named.losses.name == "my_objective"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.csv", b"", "is empty"),
        ("picture.png", b"\x89PNG\r\n\x1a\n\xff\xfe", "is not text"),
        (
            "prose.txt",
            b"Dear diary, today the loss went down.\nI am glad.\n",
            "has no column of numbers|not a CSV",
        ),
        ("config.json", b'{\n"model": "bert",\n"layers": 12\n}', "without a `log_history`"),
        ("broken.json", b'{"log_history": [', "neither JSON nor JSON lines"),
        ("state.json", b'{"log_history": []}', "has no numbers over steps"),
        (
            "words.jsonl",
            b'{"step": 1, "loss": "high"}\n{"step": 2, "loss": "low"}\n',
            "has no numbers over steps",
        ),
        ("numbers.csv", b"1,2,3\n4,5,6\n", "not a CSV with a header"),
    ],
)
def test_a_file_that_is_no_log_is_refused_by_name(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadArgument, match=message) as refused:
        read_log(tmp_path / name)
    assert name in str(refused.value)


def test_an_event_file_that_is_none_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    (tmp_path / "events.out.tfevents.1").write_bytes(b"nonsense" * 20)
    with pytest.raises(BadArgument, match="event file"):
        read_log(tmp_path / "events.out.tfevents.1")


@pytest.mark.parametrize("cut", [0, 300])
def test_the_part_of_an_event_file_that_cannot_be_read_is_named(tmp_path: Path, cut: int) -> None:
    pytest.importorskip("tensorboard")
    whole = (LOGS / "plain_staircase.tfevents").read_bytes()
    assert not read_log(LOGS / "plain_staircase.tfevents").notes
    if cut:
        content = whole[:-cut]
    else:
        # a bit in the middle
        content = bytearray(whole)
        content[len(whole) // 2] ^= 1
    path = tmp_path / "events.out.tfevents.1"
    path.write_bytes(content)
    found = read_log(path)
    (note,) = found.notes
    assert len(found.losses) < len(read_log(LOGS / "plain_staircase.tfevents").losses)
    assert f"of {len(content):,} bytes cannot be read: they are damaged, or not written yet" in note


def test_a_folder_with_too_many_files_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(LOGS / "hf_healthy.json", tmp_path / "trainer_state.json")
    for number in range(3):
        (tmp_path / f"{number}.txt").touch()
    monkeypatch.setattr(readers, "MOST_FILES", 3)
    with pytest.raises(BadArgument, match="has more than 3 files: give the folder of the training"):
        read_log(tmp_path)
    (tmp_path / "0.txt").unlink()
    assert read_log(tmp_path).path.endswith("trainer_state.json")


def test_a_log_that_is_deleted_while_it_is_looked_for_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(LOGS / "plain_restarted.jsonl", tmp_path / "kept.jsonl")
    gone = tmp_path / "gone.jsonl"
    gone.touch()

    def is_run(folder: Path) -> bool:
        gone.unlink(missing_ok=True)
        return False

    monkeypatch.setattr(readers, "_is_run", is_run)
    gone.touch()
    assert read_log(tmp_path).path.endswith("kept.jsonl")


def test_without_tensorboard_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gradiometer.logs.readers.find_spec", lambda name: None)
    with pytest.raises(BadArgument, match=r"pip install 'gradiometer\[tensorboard\]'"):
        read_log(LOGS / "plain_staircase.tfevents")


def test_missing_and_damaged_logs_are_reported(tmp_path: Path) -> None:
    with pytest.raises(BadArgument, match="does not exist"):
        read_log(tmp_path / "nowhere")
    with pytest.raises(BadArgument, match="has no log of a known format"):
        read_log(tmp_path)
    with pytest.raises(
        BadArgument, match="`--loss` must be a column of the log, got 'los': available are"
    ):
        read_log(LOGS / "hf_healthy.json", "los")
    with pytest.raises(BadArgument, match="`level` must lie between 0 and 1, got nan"):
        log_findings(read_log(LOGS / "hf_healthy.json"), math.nan)
    text = (LOGS / "plain_restarted.jsonl").read_text()
    (tmp_path / "torn.jsonl").write_text(text[:-20])
    lines = text.count("\n")
    assert read_log(tmp_path / "torn.jsonl").understood == (lines - 1, lines)
    (tmp_path / "stepless.csv").write_text(
        "loss,acc\n" + "".join(f"{1 / (n + 1)},0.5\n" for n in range(20))
    )
    assert "rows are counted" in read_log(tmp_path / "stepless.csv").notes[0]


def test_a_run_of_our_own_is_sent_to_its_report(tmp_path: Path) -> None:
    run = tmp_path / "digits-mlp-1"
    run.mkdir()
    (run / "run.toml").touch()
    (run / "readings.jsonl").write_text('{"step": 1, "learning_rate": 0.1}')
    for path in (run, run / "readings.jsonl"):
        with pytest.raises(
            BadArgument, match=r"is a run of gradiometer, .* gradiometer show .*digits-mlp-1"
        ):
            read_log(path)
    with pytest.raises(BadArgument, match="has no log of a known format"):
        read_log(tmp_path)


def test_the_command_prints_text_and_json() -> None:
    runner = CliRunner()
    told = runner.invoke(doctor, [str(LOGS / "hf_nan.json")], standalone_mode=False)
    assert (
        told.return_value == 0
        and "Not a finite number: grad_norm" in told.output
        and "try: Go back" in told.output
    )
    counted = runner.invoke(
        doctor, [str(LOGS / "hf_nan.json"), "--json", "--fail-on", "act"], standalone_mode=False
    )
    assert counted.return_value == 3
    assert json.loads(counted.output)["findings"][0]["gauge"] == "log_finite"
    calm = runner.invoke(
        doctor, [str(LOGS / "hf_healthy.json"), "--fail-on", "look"], standalone_mode=False
    )
    assert calm.return_value == 0


def test_a_log_is_read_without_torch() -> None:
    script = f"""
import sys
from pathlib import Path
from gradiometer.logs.readers import read_log
from gradiometer.logs.verdicts import log_findings
assert log_findings(read_log(Path({str(LOGS / "hf_healthy.json")!r})))
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], check=True)
