"""The instrument as a callback of Lightning: `python examples/lightning_callback.py`, with
gradiometer[lightning]."""

import sys

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from gradiometer import say
from gradiometer.problems import load

try:
    from lightning.pytorch import LightningModule, Trainer

    from gradiometer.integrations import LightningCallback
except ImportError:
    sys.exit(print("This example needs Lightning: pip install 'gradiometer[lightning]'."))

Batch = tuple[Tensor, Tensor]


def losses(module: nn.Module, batch: Batch) -> Tensor:
    """What `training_step` computes, one value an example: half of a batch is run again beside a
    measured step."""
    images, labels = batch
    return nn.functional.cross_entropy(module(images), labels, reduction="none")


class Digits(LightningModule):
    """A classifier as Lightning has it: nothing in it knows of the instrument."""

    def __init__(self) -> None:
        super().__init__()
        self.model = load("digits").model()

    def forward(self, images: Tensor) -> Tensor:
        """The logits."""
        logits: Tensor = self.model(images)
        return logits

    def training_step(self, batch: Batch, index: int) -> Tensor:
        """The mean loss."""
        return losses(self, batch).mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Plain SGD."""
        return torch.optim.SGD(self.parameters(), lr=0.1)


def main() -> None:
    torch.manual_seed(0)
    images, labels = load("digits").train.data
    loader = DataLoader(TensorDataset(images, labels), batch_size=32, shuffle=True)
    callback = LightningCallback(losses, budget=0.5)
    trainer = Trainer(
        max_epochs=4,
        accelerator="cpu",
        gradient_clip_val=1.0,
        callbacks=[callback],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    trainer.fit(Digits(), loader)
    for finding in callback.findings():
        print(say(finding).seen)


if __name__ == "__main__":
    main()
