"""Lightning with our callback: the same bits, and the same number on a problem of known noise."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from fixed_point import BATCH, RATE, Position, assert_known, losses
from gradiometer import BadArgument, Unsupported, diagnose
from known_noise_loader import MEASURED, QUIET, assert_balanced, loader, weights

pytestmark = pytest.mark.slow


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
    from gradiometer.integrations import LightningCallback

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
    callback = LightningCallback(loss, out=out, **(MEASURED | {"gauges": gauges}))
    quiet = {
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
    }
    quiet |= {"logger": False, "accelerator": "cpu", "devices": 1, "max_epochs": 1}
    callbacks = [callback] if watched else []
    lightning.Trainer(callbacks=callbacks, default_root_dir=out, **(quiet | trainer)).fit(
        module, loader(steps, size)
    )
    return module, callback


@QUIET
@pytest.mark.parametrize("accumulation", [1, 4])
def test_lightning_measures_the_known_noise_of_unclipped_gradients_and_keeps_the_bits(
    tmp_path: Path, accumulation: int
) -> None:
    settings = {"steps": 120 * accumulation, "size": BATCH // accumulation}
    clipped = {"accumulate_grad_batches": accumulation, "gradient_clip_val": 0.01}
    _, callback = fitted(
        tmp_path, watched=True, loss=losses if accumulation == 1 else None, **settings, **clipped
    )
    run = callback.watch.run
    assert_known(diagnose(run).estimates)
    assert run.status == "finished" and len(run.losses[0]) == 120
    assert (
        run.losses[1][0] == pytest.approx(Position()(next(iter(loader(1)))).mean().item(), rel=1e-6)
        or accumulation > 1
    )
    moving = {**settings, "steps": 40 * accumulation, "rate": 0.1, **clipped}
    watched, plain = (fitted(tmp_path, watched=on, **moving)[0] for on in (True, False))
    assert all(map(torch.equal, weights(watched), weights(plain)))
    assert not torch.equal(weights(plain)[0], weights(Position())[0])


@QUIET
@pytest.mark.parametrize("accumulation", [1, 2])
def test_lightning_reads_the_temperature_of_the_gradients_it_has_clipped(
    tmp_path: Path, accumulation: int
) -> None:
    """Its backward and its clipping are made inside of `optimizer.step`, in a closure."""
    clipped = {"accumulate_grad_batches": accumulation, "gradient_clip_val": 0.5}
    moving = {
        "steps": 40 * accumulation,
        "rate": 0.1,
        "gauges": "temperature,trajectory",
        **clipped,
    }
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
    from gradiometer.integrations import LightningCallback

    with pytest.raises(Unsupported, match=r"put `gradiometer\.watch` around them"):
        LightningCallback(losses).on_train_start(
            None, SimpleNamespace(automatic_optimization=False)
        )
    from lightning.pytorch.callbacks import GradientAccumulationScheduler

    trainer = SimpleNamespace(callbacks=[GradientAccumulationScheduler({0: 1, 4: 2})])
    with pytest.raises(Unsupported, match="changes the number of backwards per update"):
        LightningCallback(losses).on_train_start(
            trainer, SimpleNamespace(automatic_optimization=True)
        )
    with pytest.raises(BadArgument, match=r"call `trainer\.fit` first"):
        LightningCallback(losses).findings()
