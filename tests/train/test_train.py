"""The loop: the same bits with the instrument on and off, and after every interruption."""

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from gradiometer import (
    BadArgument,
    Diverged,
    Interrupted,
    RunDamaged,
    Unsupported,
    UserCodeFailed,
    diagnose,
)
from gradiometer.convergence.schedules import Linear
from gradiometer.convergence.theorem.theorem import read
from gradiometer.measurement import supervised
from gradiometer.measurement.batch import batch_size
from gradiometer.problems import Examples, Problem
from gradiometer.run import Run
from gradiometer.run import problem as recorded
from gradiometer.run.budget import Budget
from gradiometer.run.checkpoints import load_latest
from gradiometer.run.folder import RunFolder
from gradiometer.train import loop as loops
from gradiometer.train import train
from gradiometer.train.restoring import restore
from gradiometer.train.training import Training
from spying_gauge import Spy
from stopped_training import StopAt, problem, settings, weights


@pytest.mark.parametrize(
    ("name", "accumulation", "epochs"),
    [
        ("mlp", 1, 4),
        ("cnn_with_batch_norm_and_dropout", 3, 2),
        ("tiny_transformer", 1, 2),
        pytest.param("mlp", 3, 20, marks=pytest.mark.slow),
        pytest.param("cnn_with_batch_norm_and_dropout", 1, 20, marks=pytest.mark.slow),
        pytest.param("tiny_transformer", 3, 20, marks=pytest.mark.slow),
    ],
)
def test_final_weights_are_the_same_with_the_instrument_on_off_or_at_another_cadence(
    tmp_path: Path, name: str, accumulation: int, epochs: int
) -> None:
    ways = [
        {"budget": 0.0},
        {"every": 1, "parts": 2},
        {"every": 7, "parts": 2},
        {"every": 1},
        {"budget": 0.3},
        {"every": 5, "parts": 0},
    ]
    asked = {"accumulation": accumulation, "epochs": epochs}
    runs = [train(problem(name), settings(**asked, **way), tmp_path) for way in ways]
    assert runs[0].series("noise") is None
    assert len(runs[1].series("noise")) == 10 * epochs
    assert len({weights(run) for run in runs}) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "schedule"),
    [("mlp", "cosine"), ("mlp", "0.1/sqrt(t)"), ("cnn_with_batch_norm_and_dropout", "cosine")],
)
def test_a_stopped_run_resumes_to_the_same_bits(
    tmp_path: Path, name: str, schedule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = settings(schedule=schedule, learning_rate=0.1, epochs=7)
    whole = train(problem(name), asked, tmp_path / "whole")
    with pytest.raises(Interrupted, match=r"stopped at step 33 of 70.*gradiometer resume"):
        train(problem(name), asked, tmp_path / "stopped", StopAt(33))
    (folder,) = (tmp_path / "stopped").iterdir()
    assert Run.open(folder).status == "interrupted"
    monkeypatch.setattr(recorded, "load", lambda *_, **__: problem(name))
    resumed = loops.resume(folder)
    assert resumed.status == "finished"
    assert weights(resumed) == weights(whole)
    for ours, theirs in zip(resumed.losses, whole.losses, strict=True):
        assert ours.tolist() == theirs.tolist()
    assert [e["step"] for e in resumed.evaluations] == [e["step"] for e in whole.evaluations]


def test_a_run_stopped_at_an_evaluation_keeps_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Interrupted):
        # an epoch ends here, and its evaluation was just made
        train(problem(), settings(epochs=7), tmp_path, StopAt(50))
    (folder,) = tmp_path.iterdir()
    monkeypatch.setattr(recorded, "load", lambda *_, **__: problem())
    assert [e["step"] for e in loops.resume(folder).evaluations] == list(range(10, 71, 10))


def test_a_run_is_not_resumed_on_other_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Interrupted):
        train(problem(), settings(), tmp_path, StopAt(5))
    (folder,) = tmp_path.iterdir()
    monkeypatch.setattr(recorded, "load", lambda *_, **__: problem(examples=120))
    with pytest.raises(BadArgument, match="was trained on data with fingerprint"):
        loops.resume(folder)


def test_a_finished_run_is_not_resumed(tmp_path: Path) -> None:
    run = train(problem(), settings(epochs=1), tmp_path)
    with pytest.raises(BadArgument, match="has finished at step 10: there is nothing to resume"):
        loops.resume(run.path)


def test_a_diverging_run_stops_before_the_update_and_keeps_the_last_good_state(
    tmp_path: Path,
) -> None:
    with pytest.raises(
        Diverged, match="the update was not applied, and the last good state"
    ) as caught:
        train(problem(), settings(learning_rate=1e4), tmp_path)
    assert caught.value.exit_code == 4
    (folder,) = tmp_path.iterdir()
    assert Run.open(folder).status == "diverged"
    checkpoint, _ = load_latest(RunFolder.open(folder))
    assert all(
        tensor.isfinite().all()
        for name, tensor in checkpoint.tensors.items()
        if name.startswith("model.")
    )


def test_a_gradient_that_is_not_finite_is_never_applied(tmp_path: Path) -> None:
    def loss(model: nn.Module, batch: torch.Tensor) -> torch.Tensor:
        return (model(batch) * 0.0).abs().sqrt().squeeze(1) + 1.0  # finite, with an infinite slope

    broken = Problem(
        name="broken", model=lambda: nn.Linear(3, 1), loss=loss, train=Examples(torch.ones(20, 3))
    )
    with pytest.raises(Diverged, match="the gradient is not finite"):
        train(broken, settings(), tmp_path)


def test_learning_rate_follows_the_cosine_to_zero() -> None:
    training = Training(problem(), settings(schedule="cosine", learning_rate=0.2), Budget(0.0))
    seen = []
    for _ in range(training.steps):
        seen.append(training.learning_rate)
        training.backward(training.batch())
        training.update()
    expected = [0.1 * (1 + math.cos(math.pi * t / 200)) for t in range(200)]
    assert seen == pytest.approx(expected, rel=1e-12)
    assert training.learning_rate == pytest.approx(0.0, abs=1e-15)


def test_a_step_is_judged_by_examples_of_its_own_and_training_keeps_its_bits(
    tmp_path: Path,
) -> None:
    gauges = "curvature_along_gradient,step_drift,loss_change"
    plain = train(problem(), settings(epochs=4, budget=0.0), tmp_path / "plain")
    measured = train(problem(), settings(epochs=4, every=2, gauges=gauges), tmp_path / "measured")
    assert weights(measured) == weights(plain)
    judged = Spy(
        lambda step: (step.acting_size, batch_size(step.judging), step.judging[0], step.batch[0])
    )
    train(problem(), settings(epochs=1, every=1), tmp_path / "seen", gauges=[judged])
    for acting_size, judging_size, judging, acting in judged.seen:
        assert acting_size == judging_size == len(acting) and not torch.equal(judging, acting)


@pytest.mark.parametrize(
    "text", ["0.1/sqrt(t)", "WarmupStableDecay(0.2, warmup=20, stable=130, decay=50)", "linear"]
)
def test_learning_rate_follows_any_schedule_of_the_room(text: str) -> None:
    training = Training(
        problem(),
        settings(schedule=text, learning_rate=0.1 if text == "linear" else None),
        Budget(0.0),
    )
    seen = []
    for _ in range(training.steps):
        seen.append(training.learning_rate)
        training.backward(training.batch())
        training.update()
    shape = Linear(0.1, steps=200) if text == "linear" else read(text)
    assert seen == pytest.approx([shape(step) for step in range(200)], rel=1e-12)


def test_a_schedule_that_turns_negative_within_the_run_is_refused_before_its_first_step(
    tmp_path: Path,
) -> None:
    with pytest.raises(
        BadArgument, match=r"gives -0.01\d* at step 100: a rate must be finite and not negative"
    ):
        train(problem(), settings(schedule="1 - t/100", learning_rate=None), tmp_path)


def test_a_checkpoint_made_under_another_schedule_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        train(problem(), settings(schedule="0.1/t", learning_rate=None), tmp_path, StopAt(73))
    (stopped,) = tmp_path.iterdir()
    checkpoint, _ = load_latest(RunFolder.open(stopped))
    with pytest.raises(RunDamaged, match="its checkpoint was made under Formula"):
        restore(
            Training(problem(), settings(schedule="0.2/t", learning_rate=None), Budget(0.0)),
            checkpoint.tensors,
            checkpoint.state,
        )


def test_a_batch_larger_than_the_data_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        BadArgument, match="`batch_size` must lie between 1 and the 100 training examples, got 101"
    ):
        train(problem(), settings(batch_size=101), tmp_path)


def test_a_device_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        BadArgument, match="`device` is 'nonsense', which this machine's torch cannot use"
    ):
        train(problem(), settings(device="nonsense"), tmp_path)


def test_the_last_batch_of_an_epoch_may_be_smaller_and_one_of_one_example_is_not_measured(
    tmp_path: Path,
) -> None:
    # batches of 10, 10, 10 and 1
    run = train(problem(examples=31), settings(every=1, parts=2, epochs=3), tmp_path)
    assert run.series("noise").batch_size.tolist() == [10] * 9
    assert run.steps == 12


def made(**made_of) -> Problem:
    """A linear classifier of 3 classes, with parts of it changed."""
    generator = torch.Generator().manual_seed(2)
    data = torch.randn(40, 5, generator=generator), torch.arange(40) % 3
    given = {
        "name": "made",
        "model": lambda: nn.Linear(5, 3),
        "loss": supervised(nn.CrossEntropyLoss(reduction="none")),
        "train": Examples(data, "train"),
        "test": Examples(data, "test"),
    }
    return Problem(**(given | made_of))


def raising(*_: object) -> torch.Tensor:
    raise IndexError("boom")


class Corrupt(torch.utils.data.Dataset[Any]):
    """A data set whose seventh example cannot be read."""

    def __len__(self) -> int:
        return 40

    def __getitem__(self, position: int) -> tuple[torch.Tensor, int]:
        if position == 7:
            raise OSError("damaged")
        return torch.zeros(5), 0


@pytest.mark.parametrize(
    ("made_of", "message"),
    [
        (
            {"loss": raising},
            r"`loss` raised IndexError: boom, at test_train.py:\d+ \(at step 0, of 10 examples\)",
        ),
        ({"model": raising}, r"`model` raised IndexError: boom, at test_train.py:\d+\."),
        (
            {"correct": raising},
            r"`correct` raised IndexError: boom, at test_train.py:\d+ \(on held-out examples\)",
        ),
        (
            {"train": Examples(Corrupt(), "train")},
            r"`train` raised OSError: damaged, at test_train.py:\d+\.",
        ),
        (
            {"correct": lambda model, batch: model(batch[0])},
            r"`correct` returned torch.float32 of shape \[4, 3\]",
        ),
        (
            {"loss": lambda model, batch: model(batch[0]).sum(1).detach()},
            "`loss` does not depend on any trainable",
        ),
        ({"model": lambda: 3}, "`model` made a int, a torch.nn.Module was expected"),
        ({"model": lambda: nn.LazyLinear(3)}, "`model` has no shape yet for weight"),
        (
            {"model": lambda: nn.Linear(5, 3, dtype=torch.cfloat)},
            "`model` has the complex parameter weight",
        ),
        (
            {"model": lambda: nn.Embedding(5, 3, sparse=True)},
            "`model` makes sparse gradients in itself",
        ),
    ],
)
@pytest.mark.parametrize("accumulation", [1, 2])
def test_what_is_wrong_with_a_problem_of_ones_own_is_said_in_a_sentence(
    tmp_path: Path, made_of: dict, message: str, accumulation: int
) -> None:
    wanted = message.replace("10 examples", "5 examples") if accumulation == 2 else message
    with pytest.raises((BadArgument, Unsupported, UserCodeFailed), match=wanted):
        train(made(**made_of), settings(epochs=1, accumulation=accumulation), tmp_path)


def test_a_device_that_holds_no_numbers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        (BadArgument, Unsupported, UserCodeFailed),
        match="`device` is 'meta', which this machine's torch cannot use",
    ):
        train(made(), settings(device="meta"), tmp_path)


@pytest.mark.parametrize("examples", [32, 33])
def test_a_last_batch_too_small_for_batch_statistics_apart_is_trained_on_and_not_measured(
    tmp_path: Path, examples: int
) -> None:
    data = torch.randn(examples, 5), torch.arange(examples) % 3
    model = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))
    coupled = made(model=lambda: copy.deepcopy(model), train=Examples(data))
    run = train(
        coupled, settings(every=1, parts=2, epochs=3), tmp_path
    )  # batches of 10, 10, 10 and 2 or 3
    assert run.steps == 12
    assert run.series("noise").batch_size.tolist() == [10] * 9


def test_a_held_out_loss_that_is_not_finite_is_told_and_ends_no_training(tmp_path: Path) -> None:
    images = torch.randn(40, 5)
    images[3] = math.inf
    run = train(made(test=Examples((images, torch.arange(40) % 3))), settings(epochs=2), tmp_path)
    assert run.status == "finished"
    assert "test loss not known (1 of 40 losses are not finite)" in diagnose(run).verdict


def test_divergence_at_the_very_first_step_is_not_blamed_on_the_learning_rate(
    tmp_path: Path,
) -> None:
    with pytest.raises(
        Diverged, match=r"at step 0 .* look at the examples and at how the model starts"
    ):
        train(
            made(train=Examples((torch.full((40, 5), math.nan), torch.arange(40) % 3))),
            settings(),
            tmp_path,
        )


def test_a_name_that_is_no_file_name_still_names_the_run(tmp_path: Path) -> None:
    run = train(made(name="mine.py:a/b c", model_name="<Net>"), settings(epochs=1), tmp_path)
    assert run.name == "mine.py-a-b-c-Net-1"


def test_a_short_run_measures_at_least_once(tmp_path: Path) -> None:
    run = train(made(), settings(epochs=1), tmp_path)
    assert len(run.series("noise")) >= 1


def test_a_path_with_spaces_is_quoted_in_the_command_to_go_on(tmp_path: Path) -> None:
    with pytest.raises(Interrupted, match=r"gradiometer resume '.*/two words/made-model-1'"):
        train(made(), settings(), tmp_path / "two words", StopAt(3))


def test_a_learning_rate_above_the_edge_is_warned_of_before_the_start_and_never_refused(
    tmp_path: Path,
) -> None:
    with pytest.raises(Diverged):
        train(problem(), settings(learning_rate=30.0, momentum=0.0, epochs=1), tmp_path)
    warned = Run.open(next(tmp_path.iterdir()))
    assert any(
        "beyond the edge of stability at the start" in warning for warning in warned.warnings
    )
    quiet = train(problem(), settings(learning_rate=0.01, momentum=0.0, epochs=1), tmp_path)
    assert quiet.warnings == []


def test_a_gauge_that_cannot_measure_this_training_says_so_once_and_training_goes_on(
    tmp_path: Path,
) -> None:
    class OnceOnly(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx, gradient):
            return gradient * 2

    def loss(model: nn.Module, batch: torch.Tensor) -> torch.Tensor:
        return OnceOnly.apply(model(batch)).square().squeeze(1)

    once = Problem(
        name="once", model=lambda: nn.Linear(3, 1), loss=loss, train=Examples(torch.randn(60, 3))
    )
    run = train(once, settings(every=1, parts=2, epochs=4, gauges="noise,loss_change"), tmp_path)
    assert run.status == "finished" and len(run.series("noise")) == 24
    assert (
        len([warning for warning in run.warnings if "loss_change is no longer measured" in warning])
        == 1
    )


def test_a_gauge_that_there_is_not_is_refused_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(
        BadArgument, match=r"`gauges` has the unknown name 'nose'\. Did you mean 'noise'"
    ):
        train(problem(), settings(gauges="nose"), tmp_path)
