"""The loop: the same bits with the instrument on and off, and after every interruption."""

import hashlib
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from conftest import CASES
from gradiometer.errors import BadInput, Diverged, Interrupted
from gradiometer.problems.examples import Examples
from gradiometer.problems.problem import Problem
from gradiometer.run.budget import Budget
from gradiometer.run.checkpoints import load_latest
from gradiometer.run.configuration import Configuration
from gradiometer.run.folder import RunFolder
from gradiometer.run.reader import Run
from gradiometer.train import loop as loops
from gradiometer.train import train
from gradiometer.train.training import Training


def problem(name: str = "mlp", examples: int = 100) -> Problem:
    """A case of the catalogue with more examples: the batch of 12 repeated with noise."""
    torch.manual_seed(0)
    case = CASES[name]()
    index = torch.arange(examples) % 12
    generator = torch.Generator().manual_seed(1)

    def grown(tensor: torch.Tensor) -> torch.Tensor:
        taken = tensor[index]
        if not taken.is_floating_point():
            return taken
        return taken + 0.3 * torch.randn(taken.shape, generator=generator)

    data = {"tokens": grown(case.batch["tokens"])} if isinstance(case.batch, dict) else tuple(map(grown, case.batch))
    make = CASES[name]
    return Problem(
        name=name.replace("_", "-"),
        model=lambda: make().model,
        loss=case.loss,
        train=Examples(data),
        test=Examples(data),
    )


def weights(run: Run) -> str:
    """A hash of the final weights, bit for bit."""
    checkpoint, _ = load_latest(RunFolder.open(run.path))
    digest = hashlib.sha256()
    for name, tensor in sorted(checkpoint.tensors.items()):
        if name.startswith(("model.", "optimizer.")):
            digest.update(name.encode() + tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def settings(**changes) -> Configuration:
    return Configuration(**({"batch_size": 10, "epochs": 20, "learning_rate": 0.05, "momentum": 0.9} | changes))


@pytest.mark.parametrize("name", ["mlp", "cnn_with_batch_norm_and_dropout", "tiny_transformer"])
@pytest.mark.parametrize("microbatches", [1, 3])
def test_weights_after_200_steps_are_the_same_with_the_instrument_on_off_or_at_another_cadence(
    tmp_path: Path, name: str, microbatches: int
) -> None:
    ways = [{"budget": 0.0}, {"every": 1}, {"every": 7}, {"budget": 0.3}, {"every": 5, "spread": 0}]
    runs = [train(problem(name), settings(microbatches=microbatches, **way), tmp_path) for way in ways]
    assert runs[0].series("noise") is None
    assert len(runs[1].series("noise")) == 200
    assert len({weights(run) for run in runs}) == 1


class StopAt:
    """A watcher that asks for a stop, as Ctrl-C does, after a number of steps."""

    def __init__(self, step: int) -> None:
        self.step = step

    def begin(self, training, recorder, folder) -> None:
        pass

    def update(self, training, recorder, loss) -> None:
        import signal

        if training.step == self.step:
            signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("name", ["mlp", "cnn_with_batch_norm_and_dropout"])
def test_a_stopped_run_resumes_to_the_same_bits(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = train(problem(name), settings(schedule="cosine"), tmp_path / "whole")
    with pytest.raises(Interrupted, match=r"stopped at step 73 of 200.*gradiometer resume"):
        train(problem(name), settings(schedule="cosine"), tmp_path / "stopped", StopAt(73))
    (folder,) = (tmp_path / "stopped").iterdir()
    assert Run.open(folder).status == "interrupted"
    monkeypatch.setattr(loops, "load", lambda *_, **__: problem(name))
    resumed = loops.resume(folder)
    assert resumed.status == "finished"
    assert weights(resumed) == weights(whole)
    for ours, theirs in zip(resumed.losses, whole.losses, strict=True):
        assert ours.tolist() == theirs.tolist()
    assert [e["step"] for e in resumed.evaluations] == [e["step"] for e in whole.evaluations]


def test_a_run_stopped_at_an_evaluation_keeps_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Interrupted):
        train(problem(), settings(), tmp_path, StopAt(50))  # an epoch ends here, and its evaluation was just made
    (folder,) = tmp_path.iterdir()
    monkeypatch.setattr(loops, "load", lambda *_, **__: problem())
    assert [e["step"] for e in loops.resume(folder).evaluations] == list(range(10, 201, 10))


def test_a_run_is_not_resumed_on_other_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Interrupted):
        train(problem(), settings(), tmp_path, StopAt(5))
    (folder,) = tmp_path.iterdir()
    monkeypatch.setattr(loops, "load", lambda *_, **__: problem(examples=120))
    with pytest.raises(BadInput, match="was trained on data with fingerprint"):
        loops.resume(folder)


def test_a_finished_run_is_not_resumed(tmp_path: Path) -> None:
    run = train(problem(), settings(epochs=1), tmp_path)
    with pytest.raises(BadInput, match="has finished at step 10: there is nothing to resume"):
        loops.resume(run.path)


def test_a_diverging_run_stops_before_the_update_and_keeps_the_last_good_state(tmp_path: Path) -> None:
    with pytest.raises(Diverged, match="the update was not applied, and the last good state") as caught:
        train(problem(), settings(learning_rate=1e4), tmp_path)
    assert caught.value.exit_code == 4
    (folder,) = tmp_path.iterdir()
    assert Run.open(folder).status == "diverged"
    checkpoint, _ = load_latest(RunFolder.open(folder))
    assert all(tensor.isfinite().all() for name, tensor in checkpoint.tensors.items() if name.startswith("model."))


def test_a_gradient_that_is_not_finite_is_never_applied(tmp_path: Path) -> None:
    def loss(model: nn.Module, batch: torch.Tensor) -> torch.Tensor:
        return (model(batch) * 0.0).abs().sqrt().squeeze(1) + 1.0  # finite, with an infinite slope

    broken = Problem(name="broken", model=lambda: nn.Linear(3, 1), loss=loss, train=Examples(torch.ones(20, 3)))
    with pytest.raises(Diverged, match="the gradient is not finite"):
        train(broken, settings(), tmp_path)


def test_learning_rate_follows_the_cosine_to_zero() -> None:
    training = Training(problem(), settings(schedule="cosine", learning_rate=0.2), Budget(0.0))
    seen = []
    for _ in range(training.steps):
        seen.append(training.learning_rate)
        training.backward(training.batch(), measured=False)
        training.update()
    expected = [0.1 * (1 + math.cos(math.pi * t / 200)) for t in range(200)]
    assert seen == pytest.approx(expected, rel=1e-12)
    assert training.learning_rate == pytest.approx(0.0, abs=1e-15)


def test_a_batch_larger_than_the_data_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        BadInput, match="`batch_size` must lie between 1 and the 100 examples of the training set, got 101"
    ):
        train(problem(), settings(batch_size=101), tmp_path)


def test_a_device_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="`device` is 'nonsense', which this machine's torch cannot use"):
        train(problem(), settings(device="nonsense"), tmp_path)


def test_the_last_batch_of_an_epoch_may_be_smaller_and_one_of_one_example_is_not_measured(tmp_path: Path) -> None:
    run = train(problem(examples=31), settings(every=1, epochs=3), tmp_path)  # batches of 10, 10, 10 and 1
    assert run.series("noise").batch_size.tolist() == [10] * 9
    assert run.steps == 12
