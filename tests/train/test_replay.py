"""The state of a run at any step, made again from the checkpoint before it: the bits of a run that
was stopped there."""

from pathlib import Path

import pytest
import torch

from gradiometer import BadArgument, Interrupted
from gradiometer.problems import Examples
from gradiometer.run import Configuration, Run
from gradiometer.run.checkpoints import Checkpoint, checkpoint_steps, load_latest
from gradiometer.run.folder import RunFolder
from gradiometer.train import train
from gradiometer.train.restoring import state_at
from stopped_training import StopAt, problem, settings

WAYS = {
    "momentum and a schedule": {"schedule": "cosine"},
    "nesterov and weight decay": {
        "nesterov": True,
        "weight_decay": 1e-3,
        "sampling": "replacement",
    },
    "accumulation": {"accumulation": 3, "momentum": 0.0},
    "snapshots": {"snapshots": 2},
    "cooling": {"cool": "auto", "learning_rate": 0.3, "momentum": 0.0, "epochs": 12},
}


def stopped_at(step: int, asked: Configuration, folder: Path, name: str = "mlp") -> Checkpoint:
    """The state in which a run stops."""
    with pytest.raises(Interrupted):
        train(problem(name), asked, folder, StopAt(step))
    (path,) = folder.iterdir()
    checkpoint, _ = load_latest(RunFolder.open(path))
    values = {name: value for name, value in checkpoint.state.items() if name != "recorder"}
    return Checkpoint(checkpoint.step, dict(checkpoint.tensors), values)


def same(ours: Checkpoint, theirs: Checkpoint) -> bool:
    """True if every bit is the same. The origin of moves belongs to the gauges.

    Python's generator is left out: the shape checker of this suite draws from it.
    """
    names = [name for name in theirs.tensors if not name.startswith(("origin.", "random.python"))]
    values = {name: value for name, value in theirs.state.items() if name != "origin"}
    return (
        {*ours.tensors} - {"random.python"} == {*names}
        and all(torch.equal(ours.tensors[name], theirs.tensors[name]) for name in names)
        and {name: ours.state[name] for name in values} == values
    )


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("first", [(), (5,)], ids=["from the start", "from a checkpoint"])
def test_the_state_at_a_step_is_that_of_a_run_that_was_stopped_there(
    tmp_path: Path, way: str, first: tuple[int, ...]
) -> None:
    asked = settings(
        **({"epochs": 4, "every": 9, "keep_checkpoints": 1} | WAYS[way]),
        checkpoint_at=",".join(map(str, first)),
    )
    loaded = problem()
    run = train(loaded, asked, tmp_path / "whole")
    assert checkpoint_steps(run) == [run.steps, *first]
    before = torch.get_rng_state()
    found = state_at(run, 23, loaded)
    assert torch.equal(torch.get_rng_state(), before)
    assert found.warnings == () and found.state["step"] == 23
    assert same(found, stopped_at(23, asked, tmp_path / "stopped"))


def test_dropout_and_batch_norm_are_repeated_with_the_same_bits(tmp_path: Path) -> None:
    name, asked = "cnn_with_batch_norm_and_dropout", settings(epochs=2)
    run = train(problem(name), asked, tmp_path / "whole")
    found = state_at(run, 13, problem(name))
    assert same(found, stopped_at(13, asked, tmp_path / "stopped", name))


def test_steps_that_cannot_be_repeated_exactly_are_reported(tmp_path: Path) -> None:
    run = train(problem(), settings(epochs=1, checkpoint_seconds=float("inf")), tmp_path)
    changed = problem()
    changed = type(changed)(
        changed.name,
        changed.model,
        changed.loss,
        Examples(tuple(t * 1.5 for t in changed.train.data[:1]) + changed.train.data[1:]),
    )
    (warning,) = state_at(run, 7, changed).warnings
    assert warning.startswith(
        "steps 0 to 7 were repeated with losses that differ from the recorded ones by up to 0."
    )


def test_checkpoints_of_chosen_steps_are_kept_besides_the_newest(tmp_path: Path) -> None:
    run = train(
        problem(), settings(epochs=3, checkpoint_at="4, 17", checkpoint_seconds=0.0), tmp_path
    )
    assert checkpoint_steps(run) == [30, 29, 17, 4]
    checkpoint, _ = load_latest(run, up_to=20)
    assert checkpoint.step == 17
    assert load_latest(run, up_to=3) == (None, [])


def test_a_chosen_step_beyond_the_run_is_refused_before_training(tmp_path: Path) -> None:
    with pytest.raises(
        BadArgument, match=r"`checkpoint_at` names step 31, but this run has 30 steps"
    ):
        train(problem(), settings(epochs=3, checkpoint_at="4,31,40"), tmp_path)
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("text", ["ten", "1;2", "-3", "1,,2", "1.5"])
def test_chosen_steps_that_cannot_be_read_are_refused(text: str) -> None:
    with pytest.raises(BadArgument, match="`checkpoint_at` must be steps with commas between them"):
        Configuration(checkpoint_at=text)


def test_a_run_that_was_read_back_states_its_chosen_steps(tmp_path: Path) -> None:
    run = train(problem(), settings(epochs=1, checkpoint_at="4"), tmp_path)
    assert Run.open(run.path).configuration.lasting_checkpoints == {4}
