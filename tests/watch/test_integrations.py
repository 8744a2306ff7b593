"""Accelerate, skorch and the examples: the same number on a problem of known noise."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fixed_point import BATCH, POINTS, RATE, Position, assert_known, losses
from gradiometer import diagnose, sampling_of, watch
from known_noise_loader import MEASURED, QUIET, loader


@QUIET
@pytest.mark.slow
def test_accelerate_is_watched_like_any_loop(tmp_path: Path) -> None:
    accelerate = pytest.importorskip("accelerate")
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=4)
    model = Position()
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    data = loader(480, BATCH // 4)
    model, optimizer, prepared = accelerator.prepare(model, optimizer, data)
    with watch(
        model, optimizer, out=tmp_path, accumulation=4, sampling=sampling_of(data), **MEASURED
    ) as w:
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
            self.watch_ = watch(
                self.module_, self.optimizer_, loss=losses, out=tmp_path, **MEASURED
            )
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


@pytest.mark.slow
@pytest.mark.parametrize("example", ["own_loop", "lightning_callback", "hf_trainer", "torchrun"])
def test_an_example_says_the_noise_scale(example: str, tmp_path: Path) -> None:
    """Where what it needs is not installed, it says so."""
    path = Path(__file__).parents[2] / "examples" / f"{example}.py"
    done = subprocess.run(
        [sys.executable, path], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert "noise scale" in done.stdout or "This example needs" in done.stdout
