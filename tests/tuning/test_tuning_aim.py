"""Several batch sizes: the one that suits the aim is chosen, within the budget, and times are
measured once."""

import json
import time
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from test_tuning import Stopped, stopping
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from command_line import called
from gradiometer import supervised
from gradiometer.errors import BadArgument
from gradiometer.loop.data import data_of
from gradiometer.run import Configuration
from gradiometer.tuning import Tuned, tune
from gradiometer.tuning.aim import FILE, check_aim, paces_for
from gradiometer.tuning.optimizers import Made

GENERATOR = torch.Generator().manual_seed(0)
INPUTS = torch.randn(2048, 6, generator=GENERATOR) * torch.logspace(-1.5, 0, 6)
# without noise, but with flat directions: updates count
TARGETS = (INPUTS / torch.logspace(-1.5, 0, 6)).sum(1)
SQUARED = supervised(nn.MSELoss(reduction="none"))


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 1), nn.Flatten(0))


def slow(delay: float, over: int) -> Any:
    """A loss that takes longer for batches of more than so many examples."""

    def loss(model: nn.Module, batch: Any) -> torch.Tensor:
        until = time.process_time() + (
            delay if torch.is_grad_enabled() and len(batch[0]) > over else 0.0
        )
        while time.process_time() < until:
            pass
        return SQUARED(model, batch)

    return loss


def tuned(**settings: Any) -> Tuned:
    given = {"loss": SQUARED, "steps": 300, "batch_size": (8, 32), "aim": "examples", **settings}
    return tune(model(), batches=(INPUTS, TARGETS), **given)


@cache
def two_sizes() -> Tuned:
    return tuned()


def test_for_the_same_examples_a_small_batch_makes_more_updates_and_wins() -> None:
    found = two_sizes()
    assert (
        (found.batch_size, found.steps) == (8, 300)
        and found.cost <= found.budget
        and found.times is None
    )
    first = {one.lane.size: one for one in found.rungs[0]}
    assert first[8].updates // 4 == first[32].updates
    assert first[8].lane.steps == 4 * first[32].lane.steps
    assert "batch 32 at" in " ".join(found.sentences)


@pytest.mark.slow
def test_if_a_step_takes_as_long_for_a_large_batch_it_wins_for_the_same_time() -> None:
    both_slow = slow(0.002, over=0)
    found = tuned(loss=both_slow, aim="time", steps=200)
    assert found.batch_size == 32 and found.cost <= found.budget and found.times is not None
    assert 0.4 < found.times.relative[32].value < 2.5 and found.steps == round(
        200 / found.times.relative[32].value
    )


def test_if_a_step_takes_much_longer_for_a_large_batch_it_loses() -> None:
    found = tuned(loss=slow(0.008, over=8), aim="time", budget=2.0)
    assert found.batch_size == 8 and found.times is not None and found.times.relative[32].value > 2
    assert "A step at batch 8 takes" in " ".join(found.sentences)


def test_times_are_measured_once_and_not_taken_over_for_other_sizes(tmp_path: Path) -> None:
    def paces(*sizes: int) -> Any:
        data = {size: data_of((INPUTS, TARGETS), size) for size in sizes}
        made = Made("sgd", 0.9, True, 0.0)
        return paces_for("time", model(), made, data, loss=SQUARED, seed=0, out=tmp_path)

    first = paces(8, 64)
    assert paces(8, 64) == first and list(paces(8, 32).updates) == [8, 32] and first.cost >= 10
    torch.set_num_threads(threads := torch.get_num_threads() + 1)
    try:
        paces(8, 32)  # measured again: the times of another number of threads do not count
        assert json.loads((tmp_path / FILE).read_text())["of"][-1] == threads
    finally:
        torch.set_num_threads(threads - 1)
    (tmp_path / FILE).write_text('{"seconds": 1')
    assert list(paces(8, 64).updates) == [8, 64]


def test_a_choice_of_a_batch_that_was_stopped_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        tuned(aim="time", out=tmp_path, progress=stopping(4))
    on, again = tuned(aim="time", out=tmp_path), tuned(aim="time", out=tmp_path)
    assert json.dumps(on.to_dict()) == json.dumps(again.to_dict())
    assert len((tmp_path / "race.jsonl").read_text().splitlines()) == len(on.tried)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"aim": None}, "`aim` must be 'examples' or 'time' for several batch sizes"),
        ({"batch_size": 8}, "`aim` chooses between batch sizes: give several"),
        ({"batch_size": (8, 4096)}, "`batch_size` must be at most the 2,048 examples"),
        ({"optimizer": "sgd,adamw"}, "`batch_size` has several values, and so has the optimizer"),
        ({"budget": 0.3}, "`budget` 0.3 pays for no three lanes of each kind"),
    ],
)
def test_what_cannot_be_chosen_is_refused_by_name(wrong: dict[str, Any], sentence: str) -> None:
    with pytest.raises(BadArgument, match=sentence):
        tuned(**wrong)


def test_an_unknown_aim_is_refused() -> None:
    with pytest.raises(BadArgument, match="`aim` must be 'examples' or 'time', got 'speed'"):
        check_aim("speed", 2)


def test_batches_that_are_given_as_such_are_refused() -> None:
    loader = DataLoader(TensorDataset(INPUTS, TARGETS), batch_size=8, shuffle=True)
    with pytest.raises(BadArgument, match="so `batches` must be examples"):
        tune(model(), loss=SQUARED, batches=loader, steps=100, batch_size=(8, 16), aim="time")


def test_the_command_writes_the_batch_and_the_steps_that_go_with_it(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    small = ["tune", "digits", "--model", "mlp", "--steps", "300", "--batch", "8,32", "--json"]
    code, out, _ = called(capsys, *small, "--aim", "examples")
    told = json.loads(out)
    written = Configuration.from_toml(told["file"])
    assert code == 0 and {8, 32} == {one["batch_size"] for one in told["tried"]}
    assert written.batch_size == told["batch_size"] and written.steps == told["steps"]
    assert written.batch_size * written.steps == pytest.approx(2400, rel=0.05)
    code, _, err = called(capsys, *small)
    assert code == 2 and "`aim` must be 'examples' or 'time' for several batch sizes" in err
