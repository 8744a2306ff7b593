"""Snapshots: taken at the end of a cycle, stored once, checked when read, the same after every
interruption."""

import copy
import hashlib
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file
from torch import nn
from torch.optim.swa_utils import AveragedModel

from conftest import CASES, TinyTransformer
from gradiometer import BadArgument, Interrupted, RunDamaged, RunNotFound
from gradiometer.cli import gradiometer
from gradiometer.convergence.schedules import SnapshotCycle
from gradiometer.exploration.ensembles import SWAG, Snapshot, SnapshotCollector
from gradiometer.exploration.ensembles.snapshots import checked_cycle
from gradiometer.problems import Examples, Problem
from gradiometer.run import Configuration, Run
from gradiometer.run.artifacts import load_snapshots, save_snapshot, snapshot_paths
from gradiometer.run.checkpoints import load_latest
from gradiometer.run.folder import RunFolder
from gradiometer.train import loop as loops
from gradiometer.train import resume, train


def mlp(hidden: int = 16) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, hidden), nn.ReLU(), nn.Linear(hidden, 5))


def problem(name: str = "cnn_with_batch_norm_and_dropout") -> Problem:
    """A case of the catalogue with its batch of 12 for training data."""
    torch.manual_seed(0)
    case, make = CASES[name](), CASES[name]
    data = Examples(case.batch)
    return Problem(
        name=name.replace("_", "-"),
        model=lambda: make().model,
        loss=case.loss,
        train=data,
        test=data,
    )


def settings(**changes) -> Configuration:
    given = {
        "batch_size": 4,
        "epochs": 10,
        "learning_rate": 0.05,
        "momentum": 0.9,
        "snapshots": 3,
        "budget": 0.0,
    }
    return Configuration(**given | changes)


def final_weights(run: Run) -> dict[str, torch.Tensor]:
    checkpoint, _ = load_latest(RunFolder.open(run.path))
    return {
        name.removeprefix("model."): value
        for name, value in checkpoint.tensors.items()
        if name.startswith("model.")
    }


# The cycle and its collector


@pytest.mark.parametrize(("steps", "members"), [(100, 5), (99, 3), (1000, 7), (1_876, 6)])
def test_the_rate_is_that_of_the_paper_and_lowest_at_each_snapshot(
    steps: int, members: int
) -> None:
    cycle, model = SnapshotCycle(0.2, steps, members), nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    scheduler, collector = (
        cycle.scheduler(optimizer),
        SnapshotCollector(SnapshotCycle(0.2, steps, members)),
    )
    length, rates, taken = math.ceil(steps / members), [], []
    for step in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
        if collector.after(step, model) is not None:
            taken.append(step)
    paper = [
        0.1 * (math.cos(math.pi * ((t - 1) % length) / length) + 1) for t in range(1, steps + 1)
    ]
    np.testing.assert_allclose(rates, paper, rtol=0, atol=1e-15)
    assert len(taken) == members == len(collector.snapshots)
    assert [snapshot.step for snapshot in collector.snapshots] == [step + 1 for step in taken]
    for first, last in zip([0, *[step + 1 for step in taken]], taken, strict=False):
        assert rates[last] == min(rates[first : last + 1])
        assert rates[last] < 0.2 * 0.05


@pytest.mark.parametrize(
    ("steps", "members", "words"),
    [
        (100, 1, "at least 2, got 1"),
        (10, 4, "4 cycles of 3 steps do not fit into 10 steps, the last one would have 1: use"),
        (11, 6, "6 cycles of 2 steps do not fit into 11 steps, the last one would have 1"),
        (10, 8, "the last one would have 0"),
    ],
)
def test_one_snapshot_and_cycles_that_do_not_fit_are_refused(
    steps: int, members: int, words: str
) -> None:
    with pytest.raises(BadArgument, match=words) as refused:
        SnapshotCollector(SnapshotCycle(0.1, steps, members))
    if ": use" in str(refused.value):
        offered = int(str(refused.value).partition(": use ")[2].partition(",")[0])
        checked_cycle(SnapshotCycle(0.1, steps, offered))


@pytest.mark.parametrize(
    ("steps", "members"),
    [(steps, members) for steps in (20, 57, 100, 241) for members in range(2, 9)],
)
def test_an_accepted_cycle_gives_all_its_snapshots_at_a_low_rate(steps: int, members: int) -> None:
    cycle = SnapshotCycle(1.0, steps, members)
    taken = [step for step in range(steps) if cycle.takes_snapshot(step)]
    cooled = (
        len(taken) == members and taken[-1] - (members - 1) * cycle.length + 1 >= 0.9 * cycle.length
    )
    try:
        checked_cycle(cycle)
    except BadArgument:
        assert not cooled
    else:
        assert cooled


# As bytes


def test_a_snapshot_gives_the_model_back_bit_for_bit_and_stores_a_tied_weight_once(
    tmp_path: Path,
) -> None:
    torch.manual_seed(0)
    model, other = TinyTransformer(), TinyTransformer()
    path = save_snapshot(tmp_path, Snapshot.of(model, 1, 7))
    stored = load_file(path)
    assert "embedding.weight" in stored
    assert "head.weight" not in stored
    assert path.stat().st_size < 4 * sum(p.numel() for p in model.parameters()) + 5_000
    (snapshot,) = load_snapshots(tmp_path)
    snapshot.load_into(other)
    assert all(
        torch.equal(value, other.state_dict()[name]) for name, value in model.state_dict().items()
    )
    assert (snapshot.number, snapshot.step) == (1, 7)
    assert [path.name for path in tmp_path.iterdir()] == ["step_000007.safetensors"]


def test_a_snapshot_is_a_copy_that_later_steps_do_not_change() -> None:
    model = mlp()
    snapshot = Snapshot.of(model, 1, 1)
    before = snapshot.tensors["0.weight"].clone()
    with torch.no_grad():
        model[0].weight.zero_()
    assert torch.equal(snapshot.tensors["0.weight"], before)


def test_a_change_of_any_byte_or_length_is_refused(tmp_path: Path) -> None:
    path = save_snapshot(tmp_path, Snapshot.of(mlp(), 2, 50))
    whole = path.read_bytes()
    generator = np.random.default_rng(0)
    for place in [0, 3, 9, 40, *generator.integers(0, len(whole), 60), len(whole) - 1]:
        changed = bytearray(whole)
        changed[place] ^= 0x10
        with pytest.raises(RunDamaged, match=r"is corrupt|is not a complete snapshot"):
            Snapshot.from_bytes(bytes(changed), "`x`")
    for length in (0, 5, 100, len(whole) - 1):
        with pytest.raises(RunDamaged, match="`x` is not a complete snapshot"):
            Snapshot.from_bytes(whole[:length], "`x`")
    assert Snapshot.from_bytes(whole, "`x`").number == 2


def test_another_architecture_is_refused_and_nothing_is_loaded() -> None:
    snapshot, wider, deeper = (
        Snapshot.of(mlp(), 1, 5),
        mlp(17),
        nn.Sequential(*mlp(), nn.Linear(5, 5)),
    )
    before = copy.deepcopy(wider.state_dict())
    with pytest.raises(
        BadArgument,
        match=r"it has `0\.weight` float32 of \[17, 8\], the snapshot has `0\.weight` float32 of \[16",
    ):
        snapshot.load_into(wider)
    assert all(torch.equal(value, wider.state_dict()[name]) for name, value in before.items())
    with pytest.raises(BadArgument, match=r"the snapshot has no `3\.weight`"):
        snapshot.load_into(deeper)
    with pytest.raises(BadArgument, match="float64"):
        snapshot.load_into(mlp().double())


def test_the_error_for_a_folder_without_snapshots_names_the_option(tmp_path: Path) -> None:
    with pytest.raises(RunNotFound, match="has no snapshots: train with `--snapshots 5`"):
        load_snapshots(tmp_path)


# In the loop


def test_the_last_snapshot_of_a_run_is_its_final_model(tmp_path: Path) -> None:
    run = train(problem("mlp"), settings(), tmp_path)
    snapshots = load_snapshots(run.path / "snapshots")
    assert [snapshot.step for snapshot in snapshots] == [10, 20, 30]
    assert [event["number"] for event in run.events if event["event"] == "snapshot"] == [1, 2, 3]
    assert run.configuration.schedule == "cycles"
    final = final_weights(run)
    assert all(torch.equal(value, final[name]) for name, value in snapshots[-1].state_dict.items())


@pytest.mark.parametrize(
    "stopped_at",
    [10, 29, *(pytest.param(step, marks=pytest.mark.slow) for step in (5, 11, 20))],
)
def test_a_run_stopped_anywhere_ends_with_the_same_snapshots_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stopped_at: int
) -> None:
    whole = train(problem(), settings(), tmp_path / "whole")
    update = loops.Training.update

    def stopping(training: loops.Training) -> list[dict[str, Any]]:
        events = update(training)
        if training.step == stopped_at:
            raise Interrupted("stopped")
        return events

    with monkeypatch.context() as patched:
        patched.setattr(loops.Training, "update", stopping)
        with pytest.raises(Interrupted):
            train(
                problem(),
                settings(checkpoint_seconds=0.0 if stopped_at % 2 else math.inf),
                tmp_path / "parts",
            )
    (path,) = (tmp_path / "parts").iterdir()
    monkeypatch.setattr(loops, "problem_of", lambda run, verb: problem())
    run = resume(path)
    digests = [[s.digest for s in load_snapshots(r.path / "snapshots")] for r in (whole, run)]
    assert digests[0] == digests[1]
    assert [event["number"] for event in run.events if event["event"] == "snapshot"] == [1, 2, 3]
    assert all(
        torch.equal(value, final_weights(run)[name]) for name, value in final_weights(whole).items()
    )


def test_taking_snapshots_does_not_change_training_with_batch_norm_and_dropout(
    tmp_path: Path,
) -> None:
    schedule = "SnapshotCycle(0.05, steps=30, snapshots=3)"
    plain = train(problem(), settings(snapshots=0, schedule=schedule), tmp_path)
    watched = train(problem(), settings(), tmp_path)
    without_cycles = train(problem(), settings(schedule=schedule), tmp_path)
    for run in (watched, without_cycles):
        assert all(
            torch.equal(value, final_weights(run)[name])
            for name, value in final_weights(plain).items()
        )
        assert len(load_snapshots(run.path / "snapshots")) == 3


def test_a_snapshots_batch_norm_is_estimated_on_all_training_data_at_its_own_weights(
    tmp_path: Path,
) -> None:
    run, made = (
        train(problem("cnn_with_batch_norm"), settings(), tmp_path),
        problem("cnn_with_batch_norm"),
    )
    last = load_snapshots(run.path / "snapshots")[-1]
    model = made.model()
    last.load_into(model)
    images = made.train.data[0]
    inner = model[0](images)
    torch.testing.assert_close(last.state_dict["1.running_mean"], inner.mean((0, 2, 3)))
    assert not torch.equal(last.state_dict["1.running_mean"], final_weights(run)["1.running_mean"])


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--snapshots", "1"], "`snapshots` must be 0 or at least 2, got 1"),
        (
            ["--snapshots", "7", "--epochs", "1", "-b", "128"],
            "7 cycles of 2 steps do not fit into 12 steps",
        ),
        (["--schedule", "cycles"], "is the number of cycles: set snapshots"),
    ],
)
def test_the_command_line_refuses_settings_without_an_ensemble(
    tmp_path: Path, flags: list[str], words: str
) -> None:
    done = CliRunner().invoke(gradiometer, ["train", "digits", "--out", str(tmp_path), *flags])
    assert isinstance(done.exception, BadArgument)
    assert words in str(done.exception)
    assert not list(tmp_path.glob("*/snapshots/*"))


# SWA and SWAG


def test_the_mean_is_that_of_torch_and_the_variance_that_of_numpy() -> None:
    models = [mlp().requires_grad_(False) for _ in range(6)]
    swag, peer = SWAG(models[0], rank=3), AveragedModel(models[0])
    for place, model in enumerate(models):
        for parameter in model.parameters():
            parameter.add_(
                1e3 + torch.randn(parameter.shape, generator=torch.Generator().manual_seed(place))
            )
        swag.update(model)
        peer.update_parameters(model)
    stream = np.stack(
        [nn.utils.parameters_to_vector(model.parameters()).double().numpy() for model in models]
    )
    np.testing.assert_allclose(swag.mean, stream.mean(0), rtol=1e-12)
    # not of the difference of two squares
    np.testing.assert_allclose(swag.variance, stream.var(0), rtol=1e-9)
    for ours, theirs in zip(swag.average.parameters(), peer.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_draws_have_the_mean_and_the_covariance_of_the_paper() -> None:
    models = [nn.Linear(3, 1, bias=False).requires_grad_(False) for _ in range(5)]
    generator = torch.Generator().manual_seed(0)
    swag, stream, deviations = SWAG(models[0], rank=3), [], []
    for model in models:
        model.weight.copy_(
            torch.randn(1, 3, generator=generator) * torch.tensor([1.0, 2.0, 0.5]) + 4
        )
        swag.update(model)
        stream.append(model.weight.double().numpy().ravel())
        deviations.append(stream[-1] - np.mean(stream, axis=0))
    kept = np.stack(deviations[-3:])
    covariance = 0.5 * (np.diag(np.var(stream, axis=0)) + kept.T @ kept / 2)
    count = 2_000
    draws = np.stack([swag.draw(generator).weight.double().numpy().ravel() for _ in range(count)])
    errors = np.sqrt(np.diag(covariance) / count)
    assert (np.abs(draws.mean(0) - np.mean(stream, axis=0)) < 4.5 * errors).all()
    scale = np.sqrt((covariance**2 + np.outer(np.diag(covariance), np.diag(covariance))) / count)
    assert (np.abs(np.cov(draws, rowvar=False) - covariance) < 4.5 * scale).all()


def test_swag_needs_two_models() -> None:
    swag = SWAG(mlp())
    swag.update(mlp())
    with pytest.raises(BadArgument, match="at least 2 models, got 1"):
        swag.draw(torch.Generator())
    swag.update(mlp())
    with pytest.raises(BadArgument, match="`scale` must be at least 0 and finite, got nan"):
        swag.draw(torch.Generator(), scale=math.nan)
    with pytest.raises(BadArgument, match="`rank` must be at least 2, got 1"):
        SWAG(mlp(), rank=1)


def test_files_of_the_run_are_unchanged_by_reading_them(tmp_path: Path) -> None:
    run = train(problem("mlp"), settings(), tmp_path)
    before = [
        hashlib.sha256(path.read_bytes()).hexdigest()
        for path in snapshot_paths(run.path / "snapshots")
    ]
    load_snapshots(run.path / "snapshots")
    assert before == [
        hashlib.sha256(path.read_bytes()).hexdigest()
        for path in snapshot_paths(run.path / "snapshots")
    ]
