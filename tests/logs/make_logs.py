"""Makes the logs in this folder with the tools themselves: transformers, lightning, tensorboard,
and a plain loop.

    pip install torch transformers accelerate lightning tensorboard && python make_logs.py

Each is a small training whose trouble is known: it memorises, a batch is not a number, it has
arrived, it is resumed under another schedule, or all is well.
"""

import csv
import json
import shutil
import tempfile
from pathlib import Path

import lightning
import torch
from lightning.pytorch.callbacks import LearningRateMonitor
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torch.utils.tensorboard import SummaryWriter
from transformers import Trainer, TrainingArguments

HERE = Path(__file__).parent


class Pairs(Dataset):
    """Inputs and labels; labels at random can only be memorised, example by example."""

    def __init__(
        self, examples: int, *, random_labels: bool = False, poison: bool = False, seed: int = 0
    ) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.x = torch.randn(examples, 16, generator=generator)
        self.y = (self.x[:, 0] + 0.7 * torch.randn(examples, generator=generator) > 0).long()
        if random_labels:
            self.y = torch.randint(2, (examples,), generator=generator)
        if poison:
            self.x[300] = float("nan")

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, place: int) -> dict[str, torch.Tensor]:
        return {"x": self.x[place], "labels": self.y[place]}


class Net(nn.Module):
    """A network of two layers, or of one, that gives its own loss, as the Trainer likes it."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        hidden = nn.Sequential(nn.Linear(16, width), nn.ReLU(), nn.Linear(width, 2))
        self.layers = hidden if width else nn.Linear(16, 2)

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = self.layers(x)
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


def trainer(data: Dataset, out: str, width: int = 64, **changes: object) -> Trainer:
    """A Trainer that logs to its state alone."""
    torch.manual_seed(0)
    settings = {
        "output_dir": out,
        "per_device_train_batch_size": 16,
        "learning_rate": 0.1,
        "logging_steps": 5,
        "report_to": [],
        "save_strategy": "no",
        "optim": "sgd",
        "disable_tqdm": True,
        "use_cpu": True,
    }
    return Trainer(Net(width), TrainingArguments(**settings | changes), train_dataset=data)


def keep(made: Trainer, name: str) -> None:
    """Write the state as the Trainer does into every checkpoint."""
    made.state.save_to_json(str(HERE / name))


def hugging_face() -> None:
    """Healthy, not a number, staircase, and a resume under another schedule."""
    with tempfile.TemporaryDirectory() as out:
        made = trainer(Pairs(2_000), out, num_train_epochs=3)
        made.train()
        keep(made, "hf_healthy.json")
        made = trainer(Pairs(800, poison=True), out, num_train_epochs=3, max_grad_norm=1.0)
        made.train()
        keep(made, "hf_nan.json")
        made = trainer(
            Pairs(640, random_labels=True),
            out,
            width=2048,
            num_train_epochs=12,
            logging_steps=2,
            optim="adamw_torch",
            learning_rate=2e-3,
            lr_scheduler_type="constant",
        )
        made.train()
        keep(made, "hf_staircase.json")
        made = trainer(Pairs(2_000), out, max_steps=200, save_strategy="steps", save_steps=200)
        made.train()
        checkpoint = next(Path(out).glob("checkpoint-200"))
        (checkpoint / "scheduler.pt").unlink()  # the scheduler is lost: it starts anew
        made = trainer(Pairs(2_000), out, max_steps=400)
        made.train(resume_from_checkpoint=str(checkpoint))
        keep(made, "hf_resumed.json")


class Module(lightning.LightningModule):
    """The same network, logging its loss."""

    def __init__(self, rate: float, width: int) -> None:
        super().__init__()
        self.net, self.rate = Net(width), rate

    def training_step(self, batch: dict[str, torch.Tensor], _: int) -> torch.Tensor:
        loss = self.net(batch["x"], batch["labels"])["loss"]
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self) -> dict[str, object]:
        optimizer = torch.optim.SGD(self.parameters(), self.rate)
        return {
            "optimizer": optimizer,
            "lr_scheduler": torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0),
        }


def with_lightning() -> None:
    """A plateau as a CSV, and the same tool's event file of a healthy run."""
    for name, rate, width, epochs, logger in (
        ("lightning_plateau.csv", 0.5, 0, 160, CSVLogger),
        ("lightning_healthy.tfevents", 0.05, 64, 24, TensorBoardLogger),
    ):
        with tempfile.TemporaryDirectory() as out:
            torch.manual_seed(0)
            lightning.seed_everything(0)
            model = Module(rate, width)
            runner = lightning.Trainer(
                max_epochs=epochs,
                logger=logger(out),
                log_every_n_steps=4,
                enable_progress_bar=False,
                enable_checkpointing=False,
                enable_model_summary=False,
                accelerator="cpu",
                callbacks=[LearningRateMonitor("step")],
            )
            runner.fit(model, DataLoader(Pairs(4_000), batch_size=256, shuffle=True))
            made = next(
                path
                for path in Path(out).rglob("*")
                if path.name == "metrics.csv" or "tfevents" in path.name
            )
            shutil.copy(made, HERE / name)


def plain_loop() -> None:
    """A loop of one's own: a restart of the counter as JSON lines, a staircase as an event file,
    not a number as a CSV."""
    losses = list(_losses(Pairs(2_000), 0.1, 400))
    with (HERE / "plain_restarted.jsonl").open("w") as file:
        for step, (loss, norm, epoch) in enumerate(losses):
            if step == 300:  # killed at 300, taken up again from the checkpoint of step 200
                for again, (loss_again, norm_again, epoch_again) in enumerate(
                    losses[200:300], start=200
                ):
                    line = {
                        "step": again,
                        "loss": loss_again,
                        "grad_norm": norm_again,
                        "epoch": epoch_again,
                        "lr": 0.1,
                    }
                    file.write(json.dumps(line) + "\n")
            file.write(
                json.dumps(
                    {"step": step, "loss": loss, "grad_norm": norm, "epoch": epoch, "lr": 0.1}
                )
                + "\n"
            )
    with tempfile.TemporaryDirectory() as out:
        writer = SummaryWriter(out)
        for step, (loss, _, epoch) in enumerate(
            _losses(Pairs(512, random_labels=True), 2e-3, 384, width=2048)
        ):
            writer.add_scalar("train/loss", loss, step)
            writer.add_scalar("epoch", epoch, step)
        writer.close()
        shutil.copy(next(Path(out).iterdir()), HERE / "plain_staircase.tfevents")
    with (HERE / "plain_nan.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["iteration", "train_loss", "grad_norm"])
        for step, (loss, norm, _) in enumerate(_losses(Pairs(800, poison=True), 0.1, 100)):
            table.writerow([step, loss, norm])


def _losses(data: Dataset, rate: float, steps: int, width: int = 64):
    """Loss, gradient norm and epoch of every step."""
    torch.manual_seed(0)
    model = Net(width)
    optimizer = (
        torch.optim.Adam(model.parameters(), rate)
        if width > 64
        else torch.optim.SGD(model.parameters(), rate)
    )
    step = epoch = 0
    while step < steps:
        for batch in DataLoader(data, batch_size=16, shuffle=True):
            optimizer.zero_grad()
            loss = model(**batch)["loss"]
            loss.backward()
            norm = nn.utils.clip_grad_norm_(model.parameters(), 1e9)
            optimizer.step()
            yield loss.item(), norm.item(), epoch
            step += 1
            if step == steps:
                return
        epoch += 1


if __name__ == "__main__":
    hugging_face()
    with_lightning()
    plain_loop()
