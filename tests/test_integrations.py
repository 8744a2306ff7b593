"""The instrument in other people's loops: the same bits, and the same number on a problem of known noise."""

import copy
import math
import pickle
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, RandomSampler

from fixed_point import BATCH, POINTS, RATE, Position, assert_known, losses
from gradiometer import diagnose, sampling_of, watch
from gradiometer.convergence.trajectory.trajectory import kept_steps
from gradiometer.errors import BadArgument
from gradiometer.exploration.temperature.heat_balance import heat_balance

MEASURED = {"every": 1, "level": 0.999, "gauges": "noise"}
QUIET = pytest.mark.filterwarnings("ignore")
"""Other people's loops warn of their own affairs."""


def loader(steps: int, size: int = BATCH) -> DataLoader[Tensor]:
    draws = RandomSampler(POINTS, replacement=True, num_samples=steps * size, generator=torch.manual_seed(1))
    return DataLoader(POINTS, batch_size=size, sampler=draws)


def weights(model: nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]


# Lightning ----------------------------------------------------------------------------------------------------------


def fitted(
    out: Path,
    *,
    watched: bool,
    rate: float = RATE,
    steps: int = 200,
    size: int = BATCH,
    loss: Any = losses,
    gauges: str = "noise",
    **trainer: Any,
):
    lightning = pytest.importorskip("lightning.pytorch")
    from gradiometer.integrations.lightning import GradiometerCallback

    class Standing(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.position = Position()

        def forward(self, points: Tensor) -> Tensor:
            return self.position(points)

        def training_step(self, points: Tensor, index: int) -> Tensor:
            loss = self(points).mean()
            self.log("loss", loss)
            return loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=rate, momentum=0.5)

    module = Standing()
    callback = GradiometerCallback(loss, out=out, **(MEASURED | {"gauges": gauges}))
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    quiet |= {"logger": False, "accelerator": "cpu", "devices": 1, "max_epochs": 1}
    callbacks = [callback] if watched else []
    lightning.Trainer(callbacks=callbacks, default_root_dir=out, **(quiet | trainer)).fit(module, loader(steps, size))
    return module, callback


@QUIET
@pytest.mark.parametrize("accumulation", [pytest.param(1, marks=pytest.mark.slow), 4])
def test_lightning_measures_the_known_noise_of_unclipped_gradients_and_keeps_the_bits(
    tmp_path: Path, accumulation: int
) -> None:
    settings = {"steps": 200 * accumulation, "size": BATCH // accumulation}
    clipped = {"accumulate_grad_batches": accumulation, "gradient_clip_val": 0.01}
    _, callback = fitted(tmp_path, watched=True, loss=losses if accumulation == 1 else None, **settings, **clipped)
    run = callback.watch.run
    assert_known(diagnose(run).estimates)
    assert run.status == "finished" and len(run.losses[0]) == 200
    assert (
        run.losses[1][0] == pytest.approx(Position()(next(iter(loader(1)))).mean().item(), rel=1e-6) or accumulation > 1
    )
    moving = {**settings, "steps": 40 * accumulation, "rate": 0.1, **clipped}
    watched, plain = (fitted(tmp_path, watched=on, **moving)[0] for on in (True, False))
    assert all(map(torch.equal, weights(watched), weights(plain)))
    assert not torch.equal(weights(plain)[0], weights(Position())[0])


def assert_balanced(run: Any, steps: int, momentum: float) -> None:
    """The thermometer saw every update as it was, clipped, and the trajectory the steps of its own."""
    assert run.warnings == [] and run.series("trajectory").steps.tolist() == kept_steps(steps)
    series = run.series("temperature")
    assert series.steps.tolist() == [*range(steps)] and (series.moments["factor"] < 0.9).any()
    balance = heat_balance(series, momentum=momentum)
    size = np.abs(balance.configurational) + np.abs(balance.heat) + np.abs(balance.drift)
    assert (np.abs(balance.residual) < 1e-10 * size.sum(1, keepdims=True)).all()


@QUIET
@pytest.mark.parametrize("accumulation", [1, 2])
def test_lightning_reads_the_temperature_of_the_gradients_it_has_clipped(tmp_path: Path, accumulation: int) -> None:
    """Its backward and its clipping are made inside of `optimizer.step`, in a closure."""
    clipped = {"accumulate_grad_batches": accumulation, "gradient_clip_val": 0.5}
    moving = {"steps": 40 * accumulation, "rate": 0.1, "gauges": "temperature,trajectory", **clipped}
    watched, plain = (fitted(tmp_path, watched=on, **moving) for on in (True, False))
    assert all(map(torch.equal, weights(watched[0]), weights(plain[0])))
    assert_balanced(watched[1].watch.run, 40, momentum=0.5)


@QUIET
def test_lightning_goes_on_with_the_run_of_its_checkpoint(tmp_path: Path) -> None:
    lightning = pytest.importorskip("lightning.pytorch")
    logger = lightning.loggers.CSVLogger(tmp_path)
    settings = {"steps": 20, "enable_checkpointing": True, "logger": logger}
    _, callback = fitted(tmp_path / "runs", watched=True, **settings)
    told = next(tmp_path.rglob("metrics.csv")).read_text()
    assert "gradiometer/noise_scale_low" in told
    checkpoint = next(tmp_path.rglob("*.ckpt"))
    module, again = fitted(tmp_path / "runs", watched=True, **settings)
    from lightning.pytorch import Trainer

    again._watch = None
    trainer = Trainer(
        callbacks=[again],
        max_epochs=2,
        logger=False,
        enable_progress_bar=False,
        accelerator="cpu",
        enable_checkpointing=False,
    )
    trainer.fit(module, loader(20), ckpt_path=checkpoint, weights_only=False)
    assert again.watch.run.path == callback.watch.run.path
    assert again.watch.run.losses[0].tolist() == [*range(40)]


@QUIET
def test_a_module_that_makes_its_own_backwards_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("lightning.pytorch")
    from gradiometer.integrations.lightning import GradiometerCallback

    with pytest.raises(BadArgument, match=r"put `gradiometer\.watch` around them"):
        GradiometerCallback(losses).on_train_start(None, SimpleNamespace(automatic_optimization=False))
    from lightning.pytorch.callbacks import GradientAccumulationScheduler

    trainer = SimpleNamespace(callbacks=[GradientAccumulationScheduler({0: 1, 4: 2})])
    with pytest.raises(BadArgument, match="changes how many backwards an update takes"):
        GradiometerCallback(losses).on_train_start(trainer, SimpleNamespace(automatic_optimization=True))
    with pytest.raises(BadArgument, match=r"call `trainer\.fit` first"):
        GradiometerCallback(losses).findings()


# The Hugging Face Trainer -------------------------------------------------------------------------------------------


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
    from gradiometer.integrations.huggingface import GradiometerCallback

    asked = MEASURED | {"gauges": gauges}
    callback = GradiometerCallback(lambda model, batch: model(**batch)["loss"], out=out / "runs", **asked)
    settings = {
        "output_dir": str(out / "trainer"), "report_to": [], "disable_tqdm": True, "use_cpu": True, "optim": "sgd",
        "learning_rate": RATE, "per_device_train_batch_size": BATCH, "num_train_epochs": 1, "save_strategy": "no",
        "logging_steps": 1, "seed": 3, "lr_scheduler_type": "constant",
    }  # fmt: skip
    arguments = transformers.TrainingArguments(**(settings | arguments))
    callbacks = [callback] if watched else []
    trainer = transformers.Trainer(model, arguments, train_dataset=examples, callbacks=callbacks)
    trainer.train(resume_from_checkpoint=resume)
    return trainer, callback


def points(count: int) -> list[dict[str, Tensor]]:
    return [{"points": point} for point in POINTS[:count]]


@QUIET
@pytest.mark.parametrize("accumulation", [1, pytest.param(4, marks=pytest.mark.slow)])
def test_the_trainer_measures_the_known_noise_of_unclipped_gradients_and_keeps_the_bits(
    tmp_path: Path, accumulation: int
) -> None:
    """It clips at a norm of 1 by default, and draws without replacement."""
    sizes = {"gradient_accumulation_steps": accumulation, "per_device_train_batch_size": BATCH // accumulation}
    _, callback = trained(tmp_path, Returning(), points(400), num_train_epochs=5, max_grad_norm=0.01, **sizes)
    run = callback.watch.run
    assert run.sampling == sampling_of(DataLoader(POINTS, shuffle=True))
    assert_known(diagnose(run).estimates)
    assert run.status == "finished" and len(run.losses[0]) == 250
    moving = {"learning_rate": 0.1, "max_grad_norm": 0.5, "num_train_epochs": 1, **sizes}
    watched, plain = Returning(), Returning()
    trained(tmp_path, watched, points(160), **moving)
    trained(tmp_path, plain, points(160), watched=False, **moving)
    assert all(map(torch.equal, weights(watched), weights(plain)))
    assert not torch.equal(weights(plain)[0], weights(Returning())[0])


@QUIET
@pytest.mark.parametrize("accumulation", [1, 2])
def test_the_trainer_reads_the_temperature_of_the_gradients_it_has_clipped(tmp_path: Path, accumulation: int) -> None:
    """It clips before the callback is called."""
    sizes = {"gradient_accumulation_steps": accumulation, "per_device_train_batch_size": BATCH // accumulation}
    moving = {"learning_rate": 0.1, "max_grad_norm": 0.5, **sizes, "gauges": "temperature,trajectory"}
    watched, plain = Returning(), Returning()
    _, callback = trained(tmp_path, watched, points(160), **moving)
    trained(tmp_path, plain, points(160), watched=False, **moving)
    assert all(map(torch.equal, weights(watched), weights(plain)))
    assert_balanced(callback.watch.run, 20, momentum=0.0)


class Spoiled(nn.Module):
    """A classifier with a logarithm in the middle, of which some inputs are the end."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)
        self.middle = Logarithm()
        self.outer = nn.Linear(4, 3)

    def forward(self, inputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
        return {"loss": nn.functional.cross_entropy(self.outer(self.middle(self.inner(inputs))), labels)}


class Logarithm(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x + 10).log()


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
@pytest.mark.parametrize("by_name", [True, False])
def test_the_loss_is_found_where_the_trainer_finds_it_and_copies_of_the_model_leave_the_callback_behind(
    tmp_path: Path, by_name: bool
) -> None:
    transformers = pytest.importorskip("transformers")
    from gradiometer.integrations.huggingface import GradiometerCallback

    class Copies(transformers.TrainerCallback):
        fails = True

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            for copied in (copy.deepcopy(kwargs["model"]), pickle.loads(pickle.dumps(kwargs["model"]))):
                copied(POINTS[:2])
            if self.fails and state.global_step == 3:
                raise ZeroDivisionError

    callback, copies = GradiometerCallback(out=tmp_path / "runs", **MEASURED), Copies()
    settings = {
        "output_dir": str(tmp_path), "report_to": [], "disable_tqdm": True, "use_cpu": True, "save_strategy": "no",
        "per_device_train_batch_size": BATCH, "max_steps": 5, "optim": "sgd", "learning_rate": RATE,
    }  # fmt: skip
    model = Named(by_name)
    trainer = transformers.Trainer(
        model, transformers.TrainingArguments(**settings), train_dataset=points(80), callbacks=[callback, copies]
    )
    with pytest.raises(ZeroDivisionError):
        trainer.train()
    failed, copies.fails = callback.watch, False
    trainer.train()
    assert failed.run.status == "interrupted" and callback.watch.run.status == "finished"
    assert len(callback.watch.run.series("noise")) == 5 and not model._forward_hooks


# Recipes ------------------------------------------------------------------------------------------------------------


@QUIET
def test_accelerate_is_watched_like_any_loop(tmp_path: Path) -> None:
    accelerate = pytest.importorskip("accelerate")
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=4)
    model = Position()
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    data = loader(800, BATCH // 4)
    model, optimizer, prepared = accelerator.prepare(model, optimizer, data)
    with watch(model, optimizer, out=tmp_path, accumulation=4, sampling=sampling_of(data), **MEASURED) as w:
        for batch in prepared:
            with accelerator.accumulate(model):
                loss = model(batch).mean()
                accelerator.backward(loss)
                w.step(loss, batch)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), 0.01)
                optimizer.step()
                optimizer.zero_grad()
    assert_known(diagnose(w.run).estimates)


@QUIET
def test_skorch_is_watched_by_its_train_step(tmp_path: Path) -> None:
    skorch = pytest.importorskip("skorch")

    class Watched(skorch.NeuralNet):
        def get_loss(self, y_pred: Tensor, y_true: Tensor, *arguments: Any, **more: Any) -> Tensor:
            return y_pred.mean()

        def on_train_begin(self, *arguments: Any, **more: Any) -> None:
            super().on_train_begin(*arguments, **more)
            self.watch_ = watch(self.module_, self.optimizer_, loss=losses, out=tmp_path, **MEASURED)
            self.watch_.__enter__()

        def train_step_single(self, batch: Any, **more: Any) -> Any:
            step = super().train_step_single(batch, **more)
            self.watch_.step(step["loss"], batch[0])
            return step

        def on_train_end(self, *arguments: Any, **more: Any) -> None:
            super().on_train_end(*arguments, **more)
            self.watch_.__exit__(None, None, None)

    net = Watched(
        Position,
        criterion=nn.MSELoss,
        lr=RATE,
        max_epochs=5,
        batch_size=BATCH,
        train_split=None,
        verbose=0,
        iterator_train__shuffle=True,
    )
    net.fit(POINTS, torch.zeros(len(POINTS)))
    assert_known(diagnose(net.watch_.run).estimates)


# Examples -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("example", ["own_loop", "lightning_callback", "hf_trainer", "torchrun"])
def test_an_example_ends_in_a_sentence(example: str, tmp_path: Path) -> None:
    """Where what it needs is not installed, the sentence says so."""
    path = Path(__file__).parent.parent / "examples" / f"{example}.py"
    done = subprocess.run([sys.executable, path], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "noise scale" in done.stdout or "This example needs" in done.stdout
