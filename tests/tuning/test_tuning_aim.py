"""What suits the aim is chosen, within the budget: the training loss, the loss on held-out examples,
or the time, which is measured once."""

import json
import math
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
from gradiometer.problems import Examples, Problem
from gradiometer.run import Configuration
from gradiometer.train import resume
from gradiometer.tuning import Tuned, tune, tune_problem
from gradiometer.tuning.optimizers import Made
from gradiometer.tuning.start import FILE, check_aim, paces_for

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
    given = {"loss": SQUARED, "steps": 300, "batch_size": (8, 32), "aim": "loss", **settings}
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
        kept = [json.loads(line)["name"] for line in (tmp_path / FILE).read_text().splitlines()]
        assert [json.loads(what)[-1] for what in kept] == [threads - 1, threads - 1, threads]
    finally:
        torch.set_num_threads(threads - 1)
    assert paces(8, 64) == first
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
        ({"aim": None}, "`aim` must be 'loss', 'test' or 'time' for several batch sizes"),
        ({"batch_size": 8, "aim": "time"}, "`aim` time chooses between batch sizes: give several"),
        ({"aim": "test"}, "`held_out` and aim='test' go together: give the examples"),
        ({"held_out": (INPUTS, TARGETS)}, "`held_out` and aim='test' go together"),
        ({"batch_size": (8, 4096)}, "`batch_size` must be at most the 2,048 examples"),
        ({"optimizer": "sgd,adamw"}, "`batch_size` has several values, and so has the optimizer"),
        ({"budget": 0.3}, "`budget` 0.3 does not pay for three trial runs of each kind"),
    ],
)
def test_what_cannot_be_chosen_is_refused_by_name(wrong: dict[str, Any], sentence: str) -> None:
    with pytest.raises(BadArgument, match=sentence):
        tuned(**wrong)


def test_an_unknown_aim_is_refused() -> None:
    with pytest.raises(BadArgument, match="`aim` must be 'loss', 'test' or 'time', got 'speed'"):
        check_aim("speed", 2, None)


def test_batches_that_are_given_as_such_are_refused() -> None:
    loader = DataLoader(TensorDataset(INPUTS, TARGETS), batch_size=8, shuffle=True)
    with pytest.raises(BadArgument, match="so `batches` must be examples"):
        tune(model(), loss=SQUARED, batches=loader, steps=100, batch_size=(8, 16), aim="time")


FEW = 48
NOISY = INPUTS.sum(1) + 2 * torch.randn(2048, generator=GENERATOR)


def wide() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 128), nn.Tanh(), nn.Linear(128, 1), nn.Flatten(0))


@pytest.mark.slow
def test_held_out_examples_choose_a_rate_that_learns_less_by_heart() -> None:
    """Forty-eight noisy examples: the training loss is lowest where the noise is learnt."""

    def chosen(**by: Any) -> Tuned:
        examples = (INPUTS[:FEW], NOISY[:FEW])
        return tune(wide(), loss=SQUARED, batches=examples, batch_size=16, steps=1200, **by)

    by_training, by_others = chosen(), chosen(aim="test", held_out=(INPUTS[FEW:], NOISY[FEW:]))
    assert by_others.cost <= by_others.budget
    assert by_others.learning_rate < by_training.learning_rate / 4
    for found, words in ((by_training, "training"), (by_others, "held-out")):
        said = " ".join(found.sentences)
        assert f"has a {words} loss of" in said
        assert ("held-out examples, which it was chosen by" in said) == (found is by_others)


def small_problem(test: Any) -> Problem:
    return Problem(
        name="noisy",
        train=Examples((INPUTS[:200], NOISY[:200])),
        test=test,
        model=wide,
        loss=SQUARED,
    )


def test_a_run_is_chosen_by_a_tenth_of_the_training_set_and_the_test_set_is_not_looked_at(
    tmp_path: Path,
) -> None:
    configuration = Configuration(batch_size=10, steps=48, momentum=0.9, nesterov=True)
    impossible = Examples((INPUTS, NOISY * math.nan))
    chosen = [
        tune_problem(small_problem(test), configuration, tmp_path / name, aim="test")
        for name, test in (("without", None), ("with", impossible))
    ]
    assert chosen[0].tuned.learning_rate == chosen[1].tuned.learning_rate
    assert chosen[0].configuration.held_out == 0.1
    run = resume(chosen[0].begin(tmp_path, "winner"), problem=small_problem(None))
    assert run.status == "finished" and run.sampling.examples == 180


@pytest.mark.parametrize(
    ("settings", "aim", "sentence"),
    [
        ({"held_out": 0.001}, "test", "leaves 200 of 200 training examples, and holds out 0"),
        ({"held_out": 0.2}, None, "`held_out` is for the aim 'test'"),
    ],
)
def test_a_share_that_cannot_be_held_out_is_refused(
    settings: dict[str, Any], aim: Any, sentence: str, tmp_path: Path
) -> None:
    configuration = Configuration(batch_size=10, steps=96, momentum=0.9, **settings)
    with pytest.raises(BadArgument, match=sentence):
        tune_problem(small_problem(None), configuration, tmp_path, aim=aim)


def test_the_command_writes_the_batch_and_the_steps_that_go_with_it(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    small = ["tune", "digits", "--model", "mlp", "--steps", "300", "--batch", "8,32", "--json"]
    code, out, _ = called(capsys, *small, "--aim", "loss")
    told = json.loads(out)
    written = Configuration.from_toml(told["file"])
    assert code == 0 and {8, 32} == {one["batch_size"] for one in told["tried"]}
    assert written.batch_size == told["batch_size"] and written.steps == told["steps"]
    assert written.batch_size * written.steps == pytest.approx(2400, rel=0.05)
    code, _, err = called(capsys, *small)
    assert code == 2 and "`aim` must be 'loss', 'test' or 'time' for several batch sizes" in err
