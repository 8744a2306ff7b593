"""The Hugging Face Trainer with our callback: the same bits, and the same number on a problem of
known noise."""

import copy
import math
import pickle
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from fixed_point import BATCH, POINTS, RATE, Position, assert_known
from gradiometer import diagnose, sampling_of
from known_noise_loader import MEASURED, QUIET, assert_balanced, weights


class Returning(nn.Module):
    """A model that returns its loss, as the Trainer wants it."""

    def __init__(self) -> None:
        super().__init__()
        self.position = Position()

    def forward(self, points: Tensor) -> dict[str, Tensor]:
        return {"loss": self.position(points).mean()}


def trained(
    out: Path,
    model: nn.Module,
    examples: Any,
    *,
    watched: bool = True,
    resume: bool = False,
    gauges: str = "noise",
    **arguments: Any,
):
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    from gradiometer.integrations import HuggingFaceCallback

    asked = MEASURED | {"gauges": gauges}
    callback = HuggingFaceCallback(
        lambda model, batch: model(**batch)["loss"], out=out / "runs", **asked
    )
    settings = {
        "output_dir": str(out / "trainer"),
        "report_to": [],
        "disable_tqdm": True,
        "use_cpu": True,
        "optim": "sgd",
        "learning_rate": RATE,
        "per_device_train_batch_size": BATCH,
        "num_train_epochs": 1,
        "save_strategy": "no",
        "logging_steps": 1,
        "seed": 3,
        "lr_scheduler_type": "constant",
    }
    arguments = transformers.TrainingArguments(**(settings | arguments))
    callbacks = [callback] if watched else []
    trainer = transformers.Trainer(model, arguments, train_dataset=examples, callbacks=callbacks)
    trainer.train(resume_from_checkpoint=resume)
    return trainer, callback


def points(count: int) -> list[dict[str, Tensor]]:
    return [{"points": point} for point in POINTS[:count]]


@QUIET
@pytest.mark.parametrize("accumulation", [1, 4])
@pytest.mark.slow
def test_the_trainer_measures_the_known_noise_of_unclipped_gradients_and_keeps_the_bits(
    tmp_path: Path, accumulation: int
) -> None:
    """It clips at a norm of 1 by default, and draws without replacement."""
    sizes = {
        "gradient_accumulation_steps": accumulation,
        "per_device_train_batch_size": BATCH // accumulation,
    }
    _, callback = trained(
        tmp_path, Returning(), points(400), num_train_epochs=3, max_grad_norm=0.01, **sizes
    )
    run = callback.watch.run
    assert run.sampling == sampling_of(DataLoader(POINTS, shuffle=True))
    assert_known(diagnose(run).estimates)
    assert run.status == "finished" and len(run.losses[0]) == 150
    moving = {"learning_rate": 0.1, "max_grad_norm": 0.5, "num_train_epochs": 1, **sizes}
    watched, plain = Returning(), Returning()
    trained(tmp_path, watched, points(160), **moving)
    trained(tmp_path, plain, points(160), watched=False, **moving)
    assert all(map(torch.equal, weights(watched), weights(plain)))
    assert not torch.equal(weights(plain)[0], weights(Returning())[0])


@QUIET
@pytest.mark.slow
@pytest.mark.parametrize("accumulation", [1, 2])
def test_the_trainer_reads_the_temperature_of_the_gradients_it_has_clipped(
    tmp_path: Path, accumulation: int
) -> None:
    sizes = {
        "gradient_accumulation_steps": accumulation,
        "per_device_train_batch_size": BATCH // accumulation,
    }
    moving = {
        "learning_rate": 0.1,
        "max_grad_norm": 0.5,
        **sizes,
        "gauges": "temperature,trajectory",
    }
    watched, plain = Returning(), Returning()
    _, callback = trained(tmp_path, watched, points(160), **moving)
    trained(tmp_path, plain, points(160), watched=False, **moving)
    assert all(map(torch.equal, weights(watched), weights(plain)))
    assert_balanced(callback.watch.run, 20, momentum=0.0)


@QUIET
@pytest.mark.slow
@pytest.mark.parametrize("accumulation", [1, 4])
def test_products_of_successive_gradients_are_of_those_before_the_trainer_clips_them(
    tmp_path: Path, accumulation: int
) -> None:
    """Clipped ones all have the same norm."""
    transformers = pytest.importorskip("transformers")
    from gradiometer.integrations import HuggingFaceCallback

    callback = HuggingFaceCallback(out=tmp_path / "runs", gauges="noise", page=False, quiet=True)
    settings = {
        "output_dir": str(tmp_path),
        "report_to": [],
        "disable_tqdm": True,
        "use_cpu": True,
        "save_strategy": "no",
        "per_device_train_batch_size": BATCH // accumulation,
        "gradient_accumulation_steps": accumulation,
        "max_steps": 40,
        "optim": "sgd",
        "max_grad_norm": 0.01,
    }
    trainer = transformers.Trainer(
        Returning(),
        transformers.TrainingArguments(**settings),
        train_dataset=points(800),
        callbacks=[callback],
    )
    trainer.train()
    run = callback.watch.run
    assert run.warnings == [] and len(run.series("noise")) > 0
    assert "training_step" not in vars(trainer)


class Spoiled(nn.Module):
    """A classifier with a logarithm in the middle, of which some inputs are the end."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)
        self.middle = Logarithm()
        self.outer = nn.Linear(4, 3)

    def forward(self, inputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
        return {
            "loss": nn.functional.cross_entropy(self.outer(self.middle(self.inner(inputs))), labels)
        }


class Logarithm(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x + 10).log()


@pytest.mark.slow
def test_a_loss_that_is_nan_is_told_at_its_step_where_the_trainer_logs_zero(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    examples = [{"inputs": torch.rand(4), "labels": torch.tensor(i % 3)} for i in range(32)]
    torch.manual_seed(0)
    model = Spoiled()
    with torch.no_grad():
        model.inner.weight[0] = torch.tensor([1.0, 1.0, 1.0, 1.0])
    examples[5]["inputs"] = torch.full((4,), -100.0)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        trainer, callback = trained(tmp_path, model, examples, max_steps=4, learning_rate=1e-3)
    sentence = next(str(one.message) for one in told if "for the first time" in str(one.message))
    assert "first in middle (Logarithm), of example" in sentence
    step = int(sentence.split("at step ")[1].split(",")[0])
    logged = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    assert logged[step] == 0.0  # what the Trainer says of it
    assert math.isnan(callback.watch.run.losses[1][step]) and all(
        math.isfinite(x) for x in callback.watch.run.losses[1][:step]
    )


@QUIET
@pytest.mark.slow
def test_the_trainer_goes_on_with_the_run_of_its_checkpoint(tmp_path: Path) -> None:
    saving = {"save_strategy": "steps", "save_steps": 10}
    _, callback = trained(tmp_path, Returning(), points(120), max_steps=14, **saving)
    _, again = trained(tmp_path, Returning(), points(120), max_steps=20, resume=True, **saving)
    assert again.watch.run.path == callback.watch.run.path
    assert again.watch.run.losses[0].tolist() == [*range(20)]


class Named(nn.Module):
    """A model that returns its loss by name, or first."""

    def __init__(self, by_name: bool) -> None:
        super().__init__()
        self.position, self.by_name = Position(), by_name

    def forward(self, points: Tensor) -> Any:
        loss = self.position(points).mean()
        return {"loss": loss} if self.by_name else (loss, points)


@QUIET
@pytest.mark.parametrize("by_name", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_the_loss_is_found_where_the_trainer_finds_it_and_copies_of_the_model_leave_the_callback_behind(
    tmp_path: Path, by_name: bool
) -> None:
    transformers = pytest.importorskip("transformers")
    from gradiometer.integrations import HuggingFaceCallback

    class Copies(transformers.TrainerCallback):
        fails = True

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            for copied in (
                copy.deepcopy(kwargs["model"]),
                pickle.loads(pickle.dumps(kwargs["model"])),
            ):
                copied(POINTS[:2])
            if self.fails and state.global_step == 3:
                raise ZeroDivisionError

    callback, copies = HuggingFaceCallback(out=tmp_path / "runs", **MEASURED), Copies()
    settings = {
        "output_dir": str(tmp_path),
        "report_to": [],
        "disable_tqdm": True,
        "use_cpu": True,
        "save_strategy": "no",
        "per_device_train_batch_size": BATCH,
        "max_steps": 5,
        "optim": "sgd",
        "learning_rate": RATE,
    }
    model = Named(by_name)
    trainer = transformers.Trainer(
        model,
        transformers.TrainingArguments(**settings),
        train_dataset=points(80),
        callbacks=[callback, copies],
    )
    with pytest.raises(ZeroDivisionError):
        trainer.train()
    failed, copies.fails = callback.watch, False
    trainer.train()
    assert failed.run.status == "interrupted" and callback.watch.run.status == "finished"
    assert len(callback.watch.run.series("noise")) == 5 and not model._forward_hooks
