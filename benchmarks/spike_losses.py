"""Record the losses of twelve trainings in which no spike was seen: `python
benchmarks/spike_losses.py`

It writes tests/recorded_losses.npz, in half precision. One minute on one core; Fashion-MNIST must
be on this machine.
"""

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from gradiometer.problems import load

ROOT = Path(__file__).parents[1]
RECORDED = ROOT / "tests" / "recorded_losses.npz"
CONTEXT, WIDTH, LETTERS = 32, 48, 300_000

Examples = tuple[Tensor, Tensor]
Schedule = Callable[[float], float]
"""The learning rate as a share of its largest value, from the share of the training
that is done."""


def constant(_: float) -> float:
    return 1.0


def linear(done: float) -> float:
    return 1 - done


def cosine(done: float) -> float:
    return 0.5 + 0.5 * math.cos(math.pi * done) + 1e-4


def warmed(done: float) -> float:
    return done / 0.1 + 1e-4 if done < 0.1 else cosine((done - 0.1) / 0.9)


def restarted(done: float) -> float:
    return cosine((4 * done) % 1)


class Transformer(nn.Module):
    """Two causal layers over letters."""

    def __init__(self, letters: int) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(
            WIDTH, 4, 2 * WIDTH, 0.0, batch_first=True, norm_first=True
        )
        self.letter, self.place = (
            nn.Embedding(letters, WIDTH),
            nn.Parameter(torch.zeros(CONTEXT, WIDTH)),
        )
        self.layers, self.out = nn.TransformerEncoder(layer, 2), nn.Linear(WIDTH, letters)

    def forward(self, letters: Tensor) -> Tensor:
        """The scores of the next letter at every place."""
        mask = torch.triu(torch.full((CONTEXT, CONTEXT), -1e9), 1)
        scores: Tensor = self.out(self.layers(self.letter(letters) + self.place, mask=mask))
        return scores.transpose(1, 2)


def cnn() -> nn.Module:
    first = (nn.Conv2d(1, 8, 5, 2), nn.ReLU(), nn.Conv2d(8, 16, 3, 2), nn.ReLU())
    return nn.Sequential(*first, nn.Flatten(), nn.Linear(400, 10))


def mlp() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)
    )


def softmax() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 10))


def batches(data: Examples, size: int, replacement: bool) -> Iterator[Examples]:
    """Epochs in random order with a smaller last batch, or draws with replacement."""
    count, random = len(data[0]), torch.Generator().manual_seed(1)
    while True:
        order = torch.randperm(count, generator=random)
        for start in range(0, count, size):
            chosen = (
                torch.randint(count, (size,), generator=random)
                if replacement
                else order[start : start + size]
            )
            yield data[0][chosen], data[1][chosen]


def trained(
    model: Callable[[], nn.Module],
    data: Examples,
    optimizer: str,
    rate: float,
    schedule: Schedule,
    *,
    size: int,
    steps: int,
    replacement: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """The losses and the learning rates of a training."""
    torch.manual_seed(0)
    network = model()
    adaptive, momentum = optimizer == "adamw", 0.9 if optimizer == "momentum" else 0.0
    update: torch.optim.Optimizer = (
        torch.optim.AdamW(network.parameters(), rate)
        if adaptive
        else torch.optim.SGD(network.parameters(), rate, momentum=momentum)
    )
    drawn, losses, rates = batches(data, size, replacement), np.zeros(steps), np.zeros(steps)
    for step in range(steps):
        rates[step] = update.param_groups[0]["lr"] = rate * schedule(step / steps)
        inputs, targets = next(drawn)
        update.zero_grad()
        loss = nn.functional.cross_entropy(network(inputs), targets)
        loss.backward()
        update.step()
        losses[step] = loss.item()
    return losses, rates


def letters() -> tuple[Examples, int]:
    """This repository's documents in pieces, each with the letters that follow, and the number of
    letters."""
    text = "".join(
        path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs").rglob("*.md"))
    )[:LETTERS]
    known = {letter: place for place, letter in enumerate(sorted(set(text)))}
    codes = torch.tensor([known[letter] for letter in text])
    starts = range(0, len(codes) - CONTEXT - 1, CONTEXT)
    pieces, follow = (
        [codes[start + one : start + one + CONTEXT] for start in starts] for one in (0, 1)
    )
    return (torch.stack(pieces), torch.stack(follow)), len(known)


def main() -> None:
    """Train all, and write the file."""
    torch.set_num_threads(1)
    images, labels = load("fashion-mnist").train.data
    random = torch.Generator().manual_seed(3)
    wrong = torch.rand(len(labels), generator=random) < 0.2
    noisy = torch.where(wrong, torch.randint(10, labels.shape, generator=random), labels)
    text, count = letters()
    whole = images, labels

    def transformer() -> nn.Module:
        return Transformer(count)

    losses = {
        "softmax regression": trained(softmax, whole, "sgd", 0.1, linear, size=64, steps=4000),
        "cnn, momentum": trained(cnn, whole, "momentum", 0.03, cosine, size=64, steps=3000),
        "cnn, adamw": trained(cnn, whole, "adamw", 2e-3, warmed, size=32, steps=4000),
        "cnn, restarts": trained(cnn, whole, "momentum", 0.05, restarted, size=64, steps=4000),
        "cnn, short": trained(cnn, whole, "momentum", 0.03, linear, size=32, steps=400),
        "noisy labels": trained(
            mlp, (images, noisy), "sgd", 0.03, constant, size=16, steps=6000, replacement=True
        ),
        "small last batch": trained(
            mlp, (images[:3203], labels[:3203]), "sgd", 0.05, constant, size=64, steps=5100
        ),
        "overfitted": trained(
            mlp, (images[:1000], labels[:1000]), "momentum", 0.01, constant, size=10, steps=6000
        ),
        "transformer": trained(transformer, text, "adamw", 2e-3, warmed, size=16, steps=1500),
        "transformer, high rate": trained(
            transformer, text, "adamw", 1e-2, warmed, size=8, steps=1500
        ),
        "transformer, momentum": trained(
            transformer, text, "momentum", 0.05, warmed, size=8, steps=1500
        ),
        "transformer, restarts": trained(
            transformer, text, "adamw", 2e-3, restarted, size=8, steps=1600
        ),
    }
    kept = {
        f"{name}/{kind}": values.astype(np.float16)
        for name, both in losses.items()
        for kind, values in zip(("losses", "rates"), both, strict=True)
    }
    np.savez_compressed(RECORDED, **kept)


if __name__ == "__main__":
    main()
