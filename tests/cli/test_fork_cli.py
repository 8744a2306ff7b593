"""`gradiometer fork`: the flags, the sentence and the table, the JSON, and what is refused."""

import importlib
import json
from dataclasses import replace
from pathlib import Path

import pytest

from command_line import called
from gradiometer import BadArgument, Run
from gradiometer.cli.progress import Advised
from gradiometer.loop import Fork, Rate, alternative_of, forks_of
from gradiometer.loop.branch import BranchResult
from gradiometer.loop.branches import sentence, undecided
from gradiometer.loop.readout import Readout
from gradiometer.problems import load
from gradiometer.run import Configuration
from gradiometer.train import train
from watched_loop import one_backward, simple

SHORT = ["--horizon", "10 updates", "--replicates", "2"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    configuration = Configuration(
        problem="quadratic", batch_size=10, epochs=1, budget=0.0, learning_rate=0.02
    )
    return train(load("quadratic"), configuration, tmp_path_factory.mktemp("runs"))


@pytest.fixture
def run(finished: Run, tmp_path: Path) -> Run:
    import shutil

    return Run.open(shutil.copytree(finished.path, tmp_path / finished.name))


def fork_of(
    ends: dict[str, list[float | None]], updates: dict[str, int] | None = None, **settings
) -> Fork:
    """A fork whose branches ended at these test losses; None: it diverged."""
    results = [
        BranchResult(
            name,
            replicate,
            32_000,
            (updates or {}).get(name, 500),
            32_000,
            1.0,
            ((32_000, 1.0),),
            {} if loss is None else {"test_loss": Readout(loss)},
            "the loss is nan" if loss is None else None,
        )
        for name, losses in ends.items()
        for replicate, loss in enumerate(losses)
    ]
    alternatives = tuple(alternative_of(name) for name in ends if name != "go on")
    count = len(next(iter(ends.values())))
    return Fork(2000, alternatives, count, 32_000, tuple(results), **settings)


def test_the_sentence_says_what_was_done_and_what_came_of_it() -> None:
    ends = {
        "go on": [0.50, 0.51, 0.52, 0.50],
        "rate 2x": [0.52, 0.525, 0.54, 0.52],
        "rate 0.5x": [0.49, 0.50, 0.51, 0.488],
        "batch 2x, rate 1.41x": [0.49, 0.515, 0.51, 0.51],
        "rate 50x": [0.6, None, 0.7, None],
    }
    fork = fork_of(ends, {"batch 2x, rate 1.41x": 250})
    said = sentence(fork, fork.effects())
    assert said.startswith(
        "After 500 updates from step 2,000, against going on as it is, in test loss: rate 2x is "
        "0.019 [0.0"
    )
    assert "] higher; rate 0.5x is 0.011 [0.0" in said and "] lower; batch 2x" in said
    assert (
        "batch 2x, rate 1.41x no difference shown, −0.0013 [" in said
        and "], in half the updates; rate 50x" in said
    )
    assert said.endswith(
        "rate 50x diverged in 2 of 2 replicates. Four replicates, each cooled to zero."
    )
    (more,) = undecided(fork.effects())
    assert more.startswith("batch 2x, rate 1.41x: about ") and more.endswith(
        "would show an effect of this size."
    )


def test_the_baseline_that_diverged_is_named_and_so_are_other_tails() -> None:
    fork = fork_of({"go on": [None, None], "rate 0.5x": [0.4, 0.5]}, tail="none")
    said = sentence(fork, fork.effects())
    assert "because going on as it is diverged." in said
    assert said.endswith(" Two replicates, each at the rate of its schedule to the end.")
    to_the_end = sentence(replace(fork, left=32_000), ())
    assert to_the_end == (
        "From step 2,000, two replicates of 500 updates, to the end of the training, each at the "
        "rate of its schedule to the end."
    )


@pytest.mark.parametrize(
    ("flags", "horizon"),
    [(["--advice"], "end"), (["--advice", "--horizon", "25%"], "25%"), (["rate 2x"], None)],
)
def test_what_is_advised_is_tried_to_the_end_of_the_run(
    run: Run, capsys, monkeypatch: pytest.MonkeyPatch, flags: list[str], horizon: str | None
) -> None:
    asked: dict[str, object] = {}

    def fork(*given: object, **settings: object) -> None:
        asked.update(settings)
        raise BadArgument("`loop` is not forked here.")

    monkeypatch.setattr("gradiometer.loop.recorded.trials.alternatives_of", lambda _: (Rate(2),))
    monkeypatch.setattr("gradiometer.loop.forking.fork", fork)
    called(capsys, "fork", str(run.path), *flags)
    assert asked["horizon"] == horizon


@pytest.mark.slow
def test_the_command_prints_a_sentence_and_a_table_and_writes_the_page(run: Run, capsys) -> None:
    code, said, progress = called(
        capsys,
        "fork",
        str(run.path),
        "rate 0.5x",
        "rate 2x",
        "batch 2x, rate sqrt",
        "cool now",
        *SHORT,
    )
    assert code == 0
    assert said.startswith("After 10 of 100 updates from step 100, against going on as it is,")
    assert "Two replicates, each cooled to zero." in said.replace("\n", " ")
    for name in ("go on", "rate 0.5x", "rate 2x", "batch 2x,", "cool now"):
        assert any(line.startswith(name) for line in said.splitlines())
    assert "warning: Only 2 replicates, so intervals are wide" in progress
    assert f"fork  {run.path}/forks/0001\npage  {run.path}/report.html" in said
    assert (run.path / "report.html").is_file()
    assert "; rate 2x; batch 2x, rate " in progress, "the name of one alternative has a comma"
    assert (
        "10 branches from step 100, 100 examples each" in progress
        and "10 of 10 branches" in progress
    )
    again = called(
        capsys,
        "fork",
        str(run.path),
        "rate 0.5x",
        "rate 2x",
        "batch 2x, rate sqrt",
        "cool now",
        *SHORT,
    )
    assert (
        again[1].startswith("This fork was finished before")
        and "branches from step" not in again[2]
    )


def test_a_command_that_is_stopped_says_that_it_continues(run: Run, capsys, monkeypatch) -> None:
    def stop(self, result, done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Advised, "update", stop)
        code, _, error = called(capsys, "fork", str(run.path), "rate 2x", *SHORT)
    assert (
        code == 5
        and "error: stopped: the same command continues from the branches that are finished."
        in error
    )
    (half,) = forks_of(run)
    assert len(half.fork.results) == 2
    assert called(capsys, "fork", str(run.path), "rate 2x", *SHORT)[0] == 0
    assert [record.finished for record in forks_of(run)] == [True]


def test_json_has_the_effects_and_every_branch(run: Run, capsys) -> None:
    code, printed, told = called(
        capsys, "fork", str(run.path), "rate 2x & momentum 0.5", *SHORT, "--json"
    )
    found = json.loads(printed)
    assert (code, told) == (0, "")
    (effect,) = found["effects"]
    assert effect["alternative"] == "rate 2x & momentum 0.5" and effect["replicates"] == 2
    assert effect["verdict"] in ("better", "worse", "open") and effect["estimate"]["level"] == 0.9
    assert len(found["branches"]) == 4 and set(found["branches"][0]["readouts"]) == {
        "train_loss",
        "test_loss",
    }
    assert found["plan"]["step"] == 100 and found["was_finished"] is False


def test_a_rate_that_stays_high_gets_both_answers(run: Run, capsys) -> None:
    asked = ("fork", str(run.path), "rate 2x", "--horizon", "end", "--replicates", "2")
    code, printed, _ = called(capsys, *asked, "--json")
    found = json.loads(printed)
    assert code == 0 and found["was_finished"] is False
    assert [found["plan"]["tail"], found["kept"]["plan"]["tail"]] == ["half", "none"]
    assert found["fork"] != found["kept"]["fork"] and "kept" not in found["kept"]
    assert found["effects"][0]["estimate"] != found["kept"]["effects"][0]["estimate"]
    code, said, _ = called(capsys, *asked)
    cooled, kept = said.split("\nAs the training has it, with the rate kept:\n")
    assert code == 0 and f"fork  {found['fork']}" in cooled
    assert f"fork  {found['kept']['fork']}" in kept
    code, printed, _ = called(capsys, *asked, "--tail", "half", "--json")
    assert json.loads(printed)["kept"] is None and json.loads(printed)["was_finished"]


def test_half_and_twice_the_rate_and_twice_the_batch_are_tried_by_default(run: Run, capsys) -> None:
    assert called(capsys, "fork", str(run.path), *SHORT)[0] == 0
    (record,) = forks_of(run)
    assert record.plan.names == ("go on", "rate 0.5x", "rate 2x", "batch 2x, rate 1.41x")
    assert isinstance(record.plan.alternatives[0], Rate)


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["rate fast"], "`CHANGE` 'rate fast' cannot be used: `alternatives` names 'rate fast'"),
        (["rate 2x", ""], "`CHANGE` '' cannot be used"),
        (["batch nan"], "`CHANGE` 'batch nan' cannot be used"),
        (
            ["momentum 1.5"],
            "`CHANGE` 'momentum 1.5' cannot be used: `value` must be at least 0 and less than 1",
        ),
        (["skip 9:3"], "`CHANGE` 'skip 9:3' cannot be used"),
        (["follow Cosinus(0.1)"], "`CHANGE` 'follow Cosinus(0.1)' cannot be used"),
        (["warp 9"], "`CHANGE` 'warp 9' cannot be used: `alternatives` names 'warp 9'"),
        (["--at", "999"], "`at` must be between 0 and 200"),
        (
            ["--horizon", "5000 updates"],
            "`horizon` is 50,000 examples, and 1,000 are left of the training",
        ),
        (
            ["--readout", "bleu", *SHORT],
            "'bleu' is not one of 'test_loss', 'train_loss', 'test_accuracy'",
        ),
        (["--advice"], "`--advice` finds nothing to try"),
        (["--pool", "cluster"], "`--pool`"),
    ],
)
def test_what_cannot_be_used_is_refused_in_a_sentence(
    run: Run, capsys, flags: list[str], sentence: str
) -> None:
    code, _, error = called(capsys, "fork", str(run.path), *flags)
    assert code == 2 and sentence in error


def test_a_watched_run_is_refused_with_the_line_for_its_program(tmp_path: Path, capsys) -> None:
    model, optimizer, w = simple(tmp_path)
    with w:
        for _ in range(2):
            w.step(*one_backward(model))
            optimizer.step()
    code, _, error = called(capsys, "fork", str(w.run.path))
    assert code == 2
    assert (
        "is a watched run: only your program has its model and data. Add the line "
        "`w.fork(batches=loader" in error
    )


def test_a_watched_run_is_forked_from_the_loop_that_a_function_returns(
    tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_loop_of_a_watched_run.py").write_text(MINE, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    mine = importlib.import_module("my_loop_of_a_watched_run")
    run = mine.watched(tmp_path / "runs")
    call = (
        "fork",
        str(run.path),
        "rate 2x",
        "--horizon",
        "4 updates",
        "--replicates",
        "2",
        "--json",
    )
    code, text, _ = called(capsys, *call, "--loop", "my_loop_of_a_watched_run:loop")
    assert code == 0
    found = json.loads(text)
    assert found["plan"]["step"] == 8 and found["effects"][0]["alternative"] == "rate 2x"
    assert any(
        "were not compared with those of the watched run" in warning
        for warning in found["warnings"]
    )
    assert len(forks_of(run)) == 1
    for name, refusal in (
        ("other", "returns a loop with other parameters than those of"),
        ("larger", "returns a loop with 16 examples in an update, and"),
        ("nothing", "must return a gradiometer.loop.Loop, got NoneType"),
    ):
        code, _, error = called(capsys, *call, "--loop", f"my_loop_of_a_watched_run:{name}")
        assert code == 2 and refusal in " ".join(error.split())


MINE = """
import torch
from torch import nn

from gradiometer import supervised, watch
from gradiometer.loop import Loop

INPUTS = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
DATA = INPUTS, INPUTS.sum(dim=1)
LOSS = supervised(nn.MSELoss(reduction="none"))


def made(width=8, size=8):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, 1), nn.Flatten(0))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    return Loop(model, optimizer, loss=LOSS, batches=DATA, batch_size=size, index=8)


def watched(out):
    own = made()
    with watch(own.model, own.optimizer, loss=LOSS, out=out, page=False, quiet=True) as w:
        for step in range(8):
            batch = DATA[0][8 * step : 8 * step + 8], DATA[1][8 * step : 8 * step + 8]
            own.optimizer.zero_grad()
            value = LOSS(own.model, batch).mean()
            value.backward()
            w.step(value, batch)
            own.optimizer.step()
    return w.run


def loop():
    return made()


def other():
    return made(width=9)


def larger():
    return made(size=16)


def nothing():
    return None
"""


def test_a_folder_without_a_run_is_refused(tmp_path: Path, capsys) -> None:
    code, _, error = called(capsys, "fork", str(tmp_path / "none"))
    assert code == 2 and "is not a run folder" in error
