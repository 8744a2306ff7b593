"""Loops of trainers and of two processes: each has a fork in its middle, and a continuation by
hand."""

# ruff: noqa: D102, PLC0415
import logging
import sys
import tempfile
import warnings
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from gradiometer import Draw, Sampling, watch
from own_loops.plain import BATCH, HELD_OUT, TRAIN, cross_entropy, network

START, UPDATES, REPLICATES = 40, 24, 3
"""Updates before the fork, updates of a branch, and orders of the data."""


def places(seed: int) -> Iterator[Tensor]:
    """The positions of the examples of one batch after another."""
    order = torch.Generator().manual_seed(seed)
    while True:
        yield from torch.randperm(len(TRAIN[0]), generator=order).split(BATCH)


def own_order(replicate: int | None) -> list[int]:
    """The examples of a training, whose batches after the fork are those of a replicate."""
    seed = 0 if replicate is None else zlib.crc32(f"0/data/{replicate}".encode())
    first, later = places(0), places(seed)
    batches = [next(first) for _ in range(START)] + [next(later) for _ in range(UPDATES)]
    return torch.cat(batches).tolist()


class Multiplied:
    """Hooks on an optimizer: its rate after the fork, times a factor that falls to zero."""

    def __init__(self, optimizer: torch.optim.Optimizer, factor: float) -> None:
        self.factor = factor
        self.made = 0
        self.rates: list[float] = []
        optimizer.register_step_pre_hook(self.before)
        optimizer.register_step_post_hook(self.after)

    def before(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        self.rates = [group["lr"] for group in optimizer.param_groups]
        if self.made >= START:
            tail = 1 - (self.made - START + 0.5) / UPDATES
            for group in optimizer.param_groups:
                group["lr"] = group["lr"] * self.factor * tail

    def after(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        self.made += 1
        for group, rate in zip(optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate


class Named(Dataset):
    """Examples as mappings, as the Trainer wants them."""

    def __len__(self) -> int:
        return len(TRAIN[0])

    def __getitem__(self, place: int) -> dict[str, Tensor]:
        return {"inputs": TRAIN[0][place], "labels": TRAIN[1][place]}


class Returning(nn.Module):
    """A model that returns its loss."""

    def __init__(self) -> None:
        super().__init__()
        self.network = network()

    def forward(self, inputs: Tensor, labels: Tensor | None = None) -> Any:
        scores = self.network(inputs)
        if labels is None:
            return {"logits": scores}
        return {"loss": functional.cross_entropy(scores, labels), "logits": scores}


def hugging_face(out: Path, factor: float | None = None, replicate: int | None = None) -> Any:
    """The fork of a Trainer's loop, or with a factor where the Trainer itself ends."""
    from transformers import Trainer, TrainerCallback, TrainingArguments

    from gradiometer.integrations import HuggingFaceCallback

    class Ordered(Trainer):
        def _get_train_sampler(self, *_: Any) -> Any:
            return own_order(replicate)

    found: list[Any] = []
    watching = HuggingFaceCallback(out=out, page=False, quiet=True)

    class Between(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if factor is not None:
                Multiplied(kwargs["optimizer"].optimizer, factor)

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if factor is None and state.global_step == START:
                found.append(
                    watching.watch.fork(
                        batches=lambda seed: (
                            {"inputs": TRAIN[0][chosen], "labels": TRAIN[1][chosen]}
                            for chosen in places(seed)
                        ),
                        alternatives=["rate 2x"],
                        horizon=f"{UPDATES} updates",
                        replicates=REPLICATES,
                        evaluate=lambda model: {"score": score(model.network)},
                    )
                )
            control.should_training_stop = state.global_step >= START + UPDATES

    torch.manual_seed(0)
    model = Returning()
    arguments = TrainingArguments(
        output_dir=str(out / "trainer"),
        report_to=[],
        disable_tqdm=True,
        log_level="error",
        use_cpu=True,
        learning_rate=0.01,
        max_grad_norm=0.3,
        per_device_train_batch_size=BATCH,
        max_steps=200,
        save_strategy="no",
        logging_strategy="no",
    )
    callbacks = [Between()] if factor is not None else [watching, Between()]
    Ordered(model, arguments, train_dataset=Named(), callbacks=callbacks).train()
    return found[0] if factor is None else score(model.network)


def score(model: nn.Module) -> float:
    model.eval()
    with torch.no_grad():
        return float(cross_entropy(model, HELD_OUT).mean())


def lightning_trainer(out: Path, factor: float | None = None, replicate: int | None = None) -> Any:
    """The fork of Lightning's loop, or with a factor where Lightning itself ends."""
    import lightning

    from gradiometer.integrations import LightningCallback

    class Classifier(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network = network()

        def training_step(self, batch: Any, place: int) -> Tensor:
            return functional.cross_entropy(self.network(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.AdamW(self.parameters(), lr=0.01)
            if factor is not None:
                Multiplied(optimizer, factor)
            planned = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 120)
            return {
                "optimizer": optimizer,
                "lr_scheduler": {"scheduler": planned, "interval": "step"},
            }

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    found: list[Any] = []
    watching = LightningCallback(
        loss=lambda module, batch: module.training_step(batch, 0),
        sampling=Sampling(Draw.RESHUFFLED, examples=len(TRAIN[0])),
        out=out,
        page=False,
        quiet=True,
    )

    class Between(lightning.Callback):
        def on_train_batch_start(self, trainer: Any, module: Any, *_: Any) -> None:
            if factor is None and trainer.global_step == START:
                found.append(
                    watching.watch.fork(
                        batches=lambda seed: (
                            [TRAIN[0][chosen], TRAIN[1][chosen]] for chosen in places(seed)
                        ),
                        alternatives=["rate 2x"],
                        horizon=f"{UPDATES} updates",
                        replicates=REPLICATES,
                        evaluate=lambda model: {"score": score(model.network)},
                    )
                )

    torch.manual_seed(0)
    module = Classifier()
    data = torch.utils.data.TensorDataset(*TRAIN)
    trainer = lightning.Trainer(
        max_steps=START + UPDATES,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        gradient_clip_val=0.3,
        callbacks=[] if factor is not None else [watching, Between()],
    )
    trainer.fit(module, DataLoader(data, batch_size=BATCH, sampler=own_order(replicate)))
    return found[0] if factor is None else score(module.network)


def two_processes(out: Path, factor: float | None = None, replicate: int | None = None) -> Any:
    """The fork of a loop under DDP on rank 0, or with a factor where the loop itself ends."""
    rank = dist.get_rank()
    torch.manual_seed(0)
    model = nn.parallel.DistributedDataParallel(network())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    order = torch.tensor(own_order(replicate)).view(-1, 2, BATCH // 2)

    def update(number: int, step: Callable[[Tensor, Any], object]) -> None:
        chosen = order[number, rank]
        batch = TRAIN[0][chosen], TRAIN[1][chosen]
        optimizer.zero_grad()
        loss = functional.cross_entropy(model(batch[0]), batch[1])
        loss.backward()
        step(loss, batch)
        optimizer.step()

    if factor is not None:
        Multiplied(optimizer, factor)
        for number in range(START + UPDATES):
            update(number, lambda *_: None)
        return score(model.module)
    with watch(model, optimizer, loss=cross_entropy, out=out, page=False, quiet=True) as w:
        for number in range(START):
            update(number, w.step)
        return w.fork(
            batches=lambda seed: (
                (TRAIN[0][half], TRAIN[1][half])
                for chosen in places(seed)
                for half in chosen.split(BATCH // 2)
            ),
            accumulation=2,
            alternatives=["rate 2x"],
            horizon=f"{UPDATES} updates",
            replicates=REPLICATES,
            evaluate=lambda model: {"score": score(model)},
        )


TRAINERS = {"HuggingFace": hugging_face, "Lightning": lightning_trainer}


def main() -> None:
    """Fork and continue by hand on this rank; rank 0 prints."""
    from forks_of_loops import FACTORS, said_of

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    dist.init_process_group("gloo")
    with tempfile.TemporaryDirectory() as folder:
        found = two_processes(Path(folder))
        own = {
            name: [two_processes(Path(folder), factor, number) for number in range(REPLICATES)]
            for name, factor in FACTORS.items()
        }
    if found is not None:
        sys.stdout.write(said_of(found, own) + "\n" + "\n".join(found.notes) + "\n")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
