"""The how-tos followed in the loops of others: the same bits with and without, and the header names
what trained."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from gradiometer import Run, watch
from gradiometer.measurement import supervised
from known_noise_loader import QUIET, weights

LOSSES = supervised(nn.CrossEntropyLoss(reduction="none"))
STEPS, WARM_UP, RATE = 48, 6, 0.01

Trained = tuple[nn.Module, Run | None, tuple[str, ...]]


def examples() -> TensorDataset:
    draws = torch.Generator().manual_seed(3)
    return TensorDataset(
        torch.randn(192, 8, generator=draws), torch.randint(5, (192,), generator=draws)
    )


def plain_loader() -> "DataLoader[Any]":
    return DataLoader(
        examples(), batch_size=8, shuffle=True, generator=torch.Generator().manual_seed(4)
    )


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 5))


def optimizer_of(model: nn.Module) -> tuple[torch.optim.Optimizer, Any]:
    """AdamW with a warm-up and half a cosine."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.1)
    warm_up = torch.optim.lr_scheduler.LinearLR(optimizer, 0.01, total_iters=WARM_UP)
    fall = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS - WARM_UP)
    return optimizer, torch.optim.lr_scheduler.SequentialLR(optimizer, [warm_up, fall], [WARM_UP])


def through(w: Any, model: nn.Module, loader: Any, update: Callable[[Tensor, Any], None]) -> None:
    for _ in range(2):
        for batch in loader:
            loss = LOSSES(model, batch).mean()
            update(loss, lambda loss=loss, batch=batch: None if w is None else w.step(loss, batch))


def fabric(out: Path, *, watched: bool) -> Trained:
    module = pytest.importorskip("lightning.fabric")
    made = module.Fabric(accelerator="cpu", devices=1)
    model = network()
    optimizer, schedule = optimizer_of(model)
    wrapped, prepared = made.setup(model, optimizer)
    loader = made.setup_dataloaders(plain_loader())

    def update(loss: Tensor, measure: Callable[[], None]) -> None:
        prepared.zero_grad()
        made.backward(loss)
        measure()
        made.clip_gradients(wrapped, prepared, max_norm=1.0)
        prepared.step()
        schedule.step()

    if not watched:
        through(None, wrapped, loader, update)
        return model, None, ()
    with watch(
        wrapped,
        prepared,
        loss=LOSSES,
        sampling=plain_loader(),
        every=1,
        parts=2,
        out=out,
        page=False,
    ) as w:
        through(w, wrapped, loader, update)
    return model, w.run, w.findings().warnings


def scaled(out: Path, *, watched: bool) -> Trained:
    """Autocast to bfloat16 with a scaler and clipping, as in the recipe of torch."""
    model, scaler = network(), torch.amp.GradScaler("cpu", init_scale=1024.0)
    optimizer, schedule = optimizer_of(model)

    def losses(model: nn.Module, batch: Any) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return LOSSES(model, batch)

    def go(w: Any) -> None:
        for _ in range(2):
            for batch in plain_loader():
                optimizer.zero_grad()
                loss = losses(model, batch).mean()
                scaler.scale(loss).backward()
                if w is not None:
                    w.step(loss, batch)
                scaler.unscale_(optimizer)
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                scaler.step(optimizer)
                scaler.update()
                schedule.step()

    if not watched:
        go(None)
        return model, None, ()
    settings = {"sampling": plain_loader(), "every": 1, "parts": 2, "out": out, "page": False}
    with watch(model, optimizer, loss=losses, scaler=scaler, **settings) as w:
        go(w)
    return model, w.run, w.findings().warnings


def preference(out: Path, *, watched: bool) -> Trained:
    """A trainer with a loss of its own that needs a reference model, as DPO's does, in four
    micro-batches."""
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    reference = network()

    class Own(transformers.Trainer):
        watch: Any = None

        def compute_loss(self, model: nn.Module, inputs: Any, *_: Any, **named: Any) -> Any:
            with torch.no_grad():
                before = reference(inputs["inputs"]).log_softmax(-1)
            gain = (model(inputs["inputs"]).log_softmax(-1) - before).gather(
                1, inputs["labels"][:, None]
            )
            return -nn.functional.logsigmoid(0.5 * gain).mean()

        def training_step(self, model: nn.Module, inputs: Any, *more: Any, **named: Any) -> Tensor:
            if self.watch is not None:
                self.watch.batch(dict(inputs))
            return super().training_step(model, inputs, *more, **named)

    arguments = transformers.TrainingArguments(
        output_dir=str(out / "trainer"),
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        save_strategy="no",
        seed=3,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=4,
        num_train_epochs=2,
        learning_rate=RATE,
        warmup_steps=WARM_UP,
        lr_scheduler_type="cosine",
        weight_decay=0.1,
        remove_unused_columns=False,
    )
    rows = [{"inputs": one, "labels": label} for one, label in examples()]
    trainer = Own(network(), arguments, train_dataset=rows)
    trainer.create_optimizer()
    if not watched:
        trainer.train()
        return trainer.model, None, ()
    with watch(
        trainer.model, trainer.optimizer, accumulation=4, examples=192, every=1, out=out, page=False
    ) as w:
        trainer.watch = w
        trainer.train()
    return trainer.model, w.run, w.findings().warnings


@QUIET
@pytest.mark.slow
@pytest.mark.parametrize("train", [fabric, scaled, preference])
def test_training_has_the_same_bits_and_the_header_names_optimizer_and_schedule(
    tmp_path: Path, train: Callable[..., Trained]
) -> None:
    model, run, warnings = train(tmp_path, watched=True)
    alone, _, _ = train(tmp_path / "alone", watched=False)
    assert all(map(torch.equal, weights(model), weights(alone)))
    assert not torch.equal(weights(alone)[0], weights(network())[0])
    assert run is not None and run.hyperparameters is not None and warnings == ()
    header = run.hyperparameters.sentence
    assert (
        header.startswith("AdamW · ")
        and f"warm-up over {WARM_UP} steps to 0.01, then cosine to" in header
    ), header
    assert len(run.series("preconditioned_noise")) >= STEPS - 1 and len(run.losses[0]) == STEPS
