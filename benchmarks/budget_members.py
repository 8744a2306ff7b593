"""The members of the study of splits: short runs of each length, kept in a folder and not trained again."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from equal_budget import Data, Recipe, log_probabilities, trained
from snapshot_runs import small_cnn
from torch import nn

from gradiometer.problems import load
from gradiometer.problems.images.models import DIGITS, FASHION_MNIST
from gradiometer.storage.disk import replace_file

SPLITS = (1, 2, 4, 8)
CLASSES = 10
FULL = Recipe("3 full runs", runs=3, budget=3.0)
SNAPSHOTS = Recipe("5 snapshots", cycles=5)


@dataclass(frozen=True)
class Setting:
    """A training whose budget is split.

    Args:
        source: digits or fashion-mnist.
        network: mlp or cnn.
        images: Training images.
        epochs: Length of a full run.
        wrong: Share of the training labels that are replaced by random ones.
    """

    source: str
    network: str
    images: int
    epochs: int
    wrong: float = 0.0

    @property
    def name(self) -> str:
        """All of it, as one word."""
        wrong = f"-wrong{self.wrong:g}" if self.wrong else ""
        return f"{self.source}-{self.network}-{self.images}-{self.epochs}{wrong}"

    def data(self) -> Data:
        """The images and the network."""
        images, labels, scored = _images(self.source)
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
        few, rest = order[: self.images], order[self.images :]
        return Data(
            self.name,
            (images[few], _spoiled(labels[few], self.wrong)),
            (images[rest], labels[rest]) if scored is None else scored,
            MODELS[self.source, self.network],
            self.epochs,
        )


MODELS: Mapping[tuple[str, str], Callable[[], nn.Module]] = {
    **{("digits", name): model for name, model in DIGITS.items()},
    ("fashion-mnist", "mlp"): FASHION_MNIST["mlp"],
    ("fashion-mnist", "cnn"): small_cnn,
}
SEEN = (
    Setting("digits", "mlp", 400, 100),
    Setting("digits", "cnn", 400, 100),
    Setting("fashion-mnist", "cnn", 12_000, 10),
    Setting("fashion-mnist", "cnn", 12_000, 20),
)
"""Settings on which the method was chosen."""

FRESH = (
    Setting("digits", "mlp", 400, 100, wrong=0.2),
    Setting("digits", "mlp", 400, 20),
    Setting("digits", "cnn", 400, 300),
    Setting("digits", "cnn", 1_000, 30),
    Setting("fashion-mnist", "mlp", 12_000, 20),
    Setting("fashion-mnist", "mlp", 12_000, 20, wrong=0.2),
    Setting("fashion-mnist", "mlp", 60_000, 5),
)
"""Settings on which it was judged once."""

LATER = (
    Setting("digits", "mlp", 200, 100),
    Setting("digits", "mlp", 1_000, 40),
    Setting("digits", "cnn", 200, 200),
    Setting("digits", "cnn", 400, 100, wrong=0.2),
    Setting("digits", "cnn", 700, 60, wrong=0.1),
    Setting("fashion-mnist", "mlp", 2_000, 60),
    Setting("fashion-mnist", "mlp", 4_000, 40, wrong=0.1),
    Setting("fashion-mnist", "mlp", 24_000, 10),
)
"""Settings on which the rule that leaves splits out was judged once, after it was mended on all of the above."""

LARGE = (Setting("fashion-mnist", "cnn", 60_000, 5),)
"""All images and a CNN: 5 minutes of one core for a seed, with the runs for `--worth`."""


def path_of(setting: Setting, split: int | str, seed: int, out: Path) -> Path:
    """The file of the members of a split, or of another recipe."""
    return out / f"{setting.name}-{split}-{seed}.npy".replace(" ", "_")


def members(data: Data, split: int, seed: int, path: Path) -> np.ndarray:
    """Log-probabilities of the members of a split, [members, images, classes]."""
    return members_of(data, Recipe(f"{split} short runs", runs=split), 100 * split + seed, path)


def members_of(data: Data, recipe: Recipe, seed: int, path: Path) -> np.ndarray:
    """Log-probabilities of the members of any recipe, [members, images, classes]."""
    if not path.exists():
        models = trained(data, recipe, seed)
        said = np.stack([log_probabilities(model, data.scored[0]) for model in models]).astype(np.float32)
        partial = path.with_suffix(".part.npy")
        np.save(partial, said)
        replace_file(path, partial.read_bytes())
        partial.unlink()
    return np.load(path).astype(np.float64)


def _images(source: str) -> tuple[torch.Tensor, torch.Tensor, tuple[torch.Tensor, torch.Tensor] | None]:
    """Training images, their labels, and what is scored; None if it is what is left of the training images."""
    problem = load(source)
    train = problem.train.batch(torch.arange(len(problem.train)))
    test = problem.test.batch(torch.arange(len(problem.test)))
    if source == "digits":
        images, labels = (torch.cat(each) for each in zip(train, test, strict=True))
        return images, labels, None
    return train[0], train[1], (test[0], test[1])


def _spoiled(labels: torch.Tensor, share: float) -> torch.Tensor:
    draws = torch.Generator().manual_seed(1)
    wrong = torch.rand(len(labels), generator=draws) < share
    return torch.where(wrong, torch.randint(CLASSES, labels.shape, generator=draws), labels)
