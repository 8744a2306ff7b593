"""The instrument in the Hugging Face Trainer: `python examples/hf_trainer.py`, with
gradiometer[hf].

A small classifier is trained on digits of which one holds an infinity. The Trainer's log leaves
losses that are not numbers out and goes on; the callback names the first of them, with its step,
layer and example.
"""

import sys
import tempfile
import warnings

import torch
from torch import Tensor, nn

from gradiometer import say
from gradiometer.problems import load

try:
    from transformers import Trainer, TrainingArguments

    from gradiometer.integrations import HuggingFaceCallback
except ImportError:
    sys.exit(
        print("This example needs transformers and accelerate: pip install 'gradiometer[hf]'.")
    )


class Classifier(nn.Module):
    """A model that returns its loss, as the Trainer wants it."""

    def __init__(self) -> None:
        super().__init__()
        self.model = load("digits").model()

    def forward(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """The mean loss."""
        return {"loss": nn.functional.cross_entropy(self.model(images), labels)}


def output_loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """The loss that the model returns, here in a plain dictionary."""
    loss: Tensor = model(**batch)["loss"]
    return loss


def trained(examples: list[dict[str, Tensor]], folder: str) -> tuple[Trainer, HuggingFaceCallback]:
    """A short training, clipped at a norm of 1 as the Trainer does of itself."""
    arguments = TrainingArguments(
        output_dir=folder,
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        per_device_train_batch_size=32,
        optim="sgd",
        learning_rate=0.1,
        num_train_epochs=3,
        logging_steps=1,
        save_strategy="no",
        log_level="error",
    )
    callback = HuggingFaceCallback(output_loss, every=1, gauges="noise")
    trainer = Trainer(Classifier(), arguments, train_dataset=examples, callbacks=[callback])
    trainer.train()
    return trainer, callback


def main() -> None:
    torch.manual_seed(0)
    images, labels = load("digits").train.data
    examples = [
        {"images": image, "labels": label} for image, label in zip(images, labels, strict=True)
    ]
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for finding in trained(examples, folder)[1].findings():
            print(say(finding).seen)
        examples[700] = {"images": torch.full_like(images[700], torch.inf), "labels": labels[700]}
        trainer, callback = trained(examples, folder)
    told = next(text for text in callback.watch.run.warnings if "for the first time" in text)
    step = int(told.split("at step ")[1].split(",")[0])
    logged = [line["loss"] for line in trainer.state.log_history if "loss" in line][step]
    print(f"The Trainer logs {logged} at step {step}; gradiometer: {told}.")


if __name__ == "__main__":
    main()
