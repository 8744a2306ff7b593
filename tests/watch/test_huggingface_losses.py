"""The Trainer with losses that its model does not return, and with checkpoints from elsewhere."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from known_noise_loader import QUIET, weights

pytestmark = pytest.mark.slow


class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Linear(4, 3)
        self.config = pytest.importorskip("transformers").PretrainedConfig()

    def forward(self, inputs: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        logits = self.layers(inputs)
        if labels is None:
            return {"logits": logits}
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


def weighted(trainer: type) -> type:
    """A Trainer with a loss of its own."""

    class Weighted(trainer):  # type: ignore[misc]
        def compute_loss(
            self, model: Any, inputs: Any, return_outputs: bool = False, **named: Any
        ) -> Any:
            labels = inputs.pop("labels")
            outputs = model(**inputs)
            loss = (
                nn.functional.cross_entropy(outputs["logits"], labels, reduction="none")
                .square()
                .mean()
            )
            return (loss, outputs) if return_outputs else loss

    return Weighted


def counted(outputs: Any, labels: Tensor, num_items_in_batch: Any = None) -> Tensor:
    return (
        nn.functional.cross_entropy(outputs["logits"], labels, reduction="sum") / num_items_in_batch
    )


KINDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "label smoothing": ({}, {"label_smoothing_factor": 0.2}),
    "compute_loss_func": ({"compute_loss_func": counted}, {}),
    "own compute_loss": ({}, {}),
}


def trained(
    out: Path, kind: str, *, watched: bool = True, loss: Any = None, resume: Any = None, **more: Any
) -> Any:
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    from gradiometer.integrations import HuggingFaceCallback

    given, arguments = KINDS[kind]
    trainer_class = (
        weighted(transformers.Trainer) if kind == "own compute_loss" else transformers.Trainer
    )
    callback = HuggingFaceCallback(
        loss, out=out / "runs", every=1, parts=2, gauges="noise", page=False, quiet=True
    )
    settings = {
        "output_dir": str(out / "trainer"),
        "report_to": [],
        "disable_tqdm": True,
        "use_cpu": True,
        "optim": "sgd",
        "learning_rate": 0.1,
        "per_device_train_batch_size": 8,
        "max_steps": 4,
        "save_strategy": "no",
        "seed": 3,
    }
    generator = torch.Generator().manual_seed(1)
    examples = [
        {"inputs": torch.randn(4, generator=generator), "labels": torch.tensor(place % 3)}
        for place in range(128)
    ]
    model = Classifier()
    trainer = trainer_class(
        model,
        transformers.TrainingArguments(**(settings | arguments | more)),
        train_dataset=examples,
        callbacks=[callback] if watched else [],
        **given,
    )
    trainer.train(resume_from_checkpoint=resume)
    assert "compute_loss" not in vars(trainer)
    return model, callback


@QUIET
@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_a_loss_that_the_trainer_computes_is_the_one_that_is_measured(
    tmp_path: Path, kind: str, accumulation: int
) -> None:
    more = {"gradient_accumulation_steps": accumulation}
    model, callback = trained(tmp_path, kind, **more)
    run = callback.watch.run
    assert run.warnings == [] and len(run.series("noise")) == 4
    plain, _ = trained(tmp_path, kind, watched=False, **more)
    assert all(map(torch.equal, weights(model), weights(plain)))


class Counting(Classifier):
    """A model that is told how many labels an update has, as the language models are."""

    def forward(  # type: ignore[override]
        self, inputs: Tensor, labels: Tensor, **named: Any
    ) -> dict[str, Tensor]:
        losses = nn.functional.cross_entropy(self.layers(inputs), labels, reduction="none")
        return {"loss": losses.sum() / named.get("num_items_in_batch", len(labels))}


@QUIET
def test_the_loss_of_an_update_with_a_smaller_part_at_the_end_is_its_mean(tmp_path: Path) -> None:
    """Parts of eight and four rows made a loss that is 11 % higher, and a spike."""
    transformers = pytest.importorskip("transformers")
    from gradiometer.integrations import HuggingFaceCallback

    callback = HuggingFaceCallback(out=tmp_path / "runs", page=False, quiet=True)
    example = {"inputs": torch.ones(4), "labels": torch.tensor(1)}
    settings = {"output_dir": str(tmp_path / "trainer"), "report_to": [], "use_cpu": True}
    model = Counting()
    transformers.Trainer(
        model,
        transformers.TrainingArguments(
            **settings,
            disable_tqdm=True,
            optim="sgd",
            learning_rate=0.0,
            per_device_train_batch_size=8,
            gradient_accumulation_steps=2,
            num_train_epochs=1,
            save_strategy="no",
        ),
        train_dataset=[example] * 44,
        callbacks=[callback],
    ).train()
    truth = nn.functional.cross_entropy(model.layers(torch.ones(4)), torch.tensor(1))
    assert callback.watch.run.losses[1] == pytest.approx([truth.item()] * 3)


@QUIET
def test_a_part_without_any_label_has_a_loss_of_zero(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    from gradiometer.integrations import HuggingFaceCallback

    callback = HuggingFaceCallback(out=tmp_path, page=False, quiet=True)
    loss = torch.zeros((), requires_grad=True)
    batch = {"labels": torch.full((2, 3), -100), "num_items_in_batch": torch.tensor(12)}
    callback._ran(nn.Linear(2, 2), (), batch, {"loss": loss})
    assert float(callback._made[0]) == 0


@QUIET
def test_a_loss_that_is_given_is_used_with_the_batch_and_its_labels(tmp_path: Path) -> None:
    def smoothed(model: nn.Module, batch: Any) -> Tensor:
        logits = model(batch["inputs"])["logits"]
        return nn.functional.cross_entropy(
            logits, batch["labels"], label_smoothing=0.2, reduction="none"
        )

    _, callback = trained(tmp_path, "label smoothing", loss=smoothed)
    assert callback.watch.run.warnings == [] and len(callback.watch.run.series("noise")) == 4


@QUIET
def test_training_that_resumes_from_another_folder_continues_the_run_or_begins_a_new_one(
    tmp_path: Path,
) -> None:
    saving = {"save_strategy": "steps", "save_steps": 2}
    kind = "label smoothing"
    _, first = trained(tmp_path, kind, max_steps=2, **saving)
    checkpoint = str(tmp_path / "trainer" / "checkpoint-2")
    _, again = trained(tmp_path, kind, resume=checkpoint, output_dir=str(tmp_path / "other"))
    assert again.watch.run.path == first.watch.run.path
    assert again.watch.run.losses[0].tolist() == [0, 1, 2, 3]
    shutil.rmtree(tmp_path / "runs")
    _, fresh = trained(tmp_path, kind, resume=checkpoint, output_dir=str(tmp_path / "third"))
    assert "is not here: a new run begins" in fresh.watch.run.warnings[0]
    assert fresh.watch.run.losses[0].tolist() == [2, 3]
