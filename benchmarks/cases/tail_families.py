"""Problems whose gradient noise has light or heavy tails, each as the inner products of its
per-example gradients.

A problem of N examples is the N × N matrix of ⟨g_i, g_j⟩ at fixed parameters. From it the gradients
of any batches have exact inner products, and ‖g‖² and tr Σ are known exactly.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch.nn import functional

from gradiometer import Objective
from gradiometer.problems import load


@dataclass(frozen=True)
class Family:
    """Per-example gradients at fixed parameters.

    Attributes:
        gram: ⟨g_i, g_j⟩, [examples, examples].
    """

    gram: np.ndarray

    @property
    def norm_squared(self) -> float:
        """‖g‖²."""
        return float(self.gram.mean())

    @property
    def variance(self) -> float:
        """Tr Σ."""
        return float(np.diag(self.gram).mean()) - self.norm_squared

    @property
    def noise_scale(self) -> float:
        """tr Σ / ‖g‖²."""
        return self.variance / self.norm_squared

    @property
    def variation(self) -> float:
        """CV² of ‖g_i‖²."""
        norms = np.diag(self.gram)
        return float(norms.var() / norms.mean() ** 2)

    def readings(
        self, windows: int, steps: int, batch_size: int, seed: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """tr Σ and ‖g‖² from the two halves of independent batches, [windows, steps] each, drawn
        with replacement."""
        random, half = np.random.default_rng(seed), batch_size // 2
        variance, norm_squared = np.empty((2, windows, steps))
        for place in range(windows):
            drawn = random.integers(len(self.gram), size=(steps, 2, half))
            first, second = drawn[:, 0], drawn[:, 1]
            product = self.gram[first[:, :, None], second[:, None, :]].mean(axis=(1, 2))
            own = self.gram[drawn[..., :, None], drawn[..., None, :]].mean(axis=(2, 3)).mean(axis=1)
            norm_squared[place], variance[place] = product, half * (own - product)
        return variance, norm_squared


def outliers(share: float = 0.01, shift: bool = True, seed: int = 0) -> Family:
    """Least squares of 20 features near its optimum: 1 % of the targets, far off, carry half of the
    loss."""
    random = np.random.default_rng(seed)
    count = 2_000
    inputs = np.concatenate([np.ones((count, 1)), random.normal(size=(count, 19))], axis=1)
    residuals = random.normal(size=count) + 0.1 * inputs @ random.normal(size=20) / np.sqrt(20)
    rare = random.permutation(count)[: round(share * count)]
    size = np.sqrt(np.delete(residuals, rare).__pow__(2).sum() / len(rare))
    signs = 1.0 if shift else random.choice([-1.0, 1.0], size=len(rare))
    residuals[rare] = size * signs
    return _of(residuals[:, None] * inputs)


def rare_class(rare: int = 20, size: float = 5.0) -> Family:
    """Common examples that are nearly learnt, and some of 2,000 with large gradients that agree."""
    random = np.random.default_rng(1)
    gradients = random.normal(size=(2_000, 100)) / 10 + 0.005
    gradients[:rare] *= 3
    gradients[:rare, :5] += size
    return _of(gradients)


def lognormal(spread: float = 1.0) -> Family:
    """Gradients in 50 directions whose length is lognormal: the CV² of ‖g_i‖² is exp(4·spread²) − 1
    or so."""
    random = np.random.default_rng(2)
    lengths = np.exp(spread * random.normal(size=4_000))
    direction = random.normal(size=(4_000, 50)) / np.sqrt(50)
    direction[:, 0] += 0.2
    return _of(lengths[:, None] * direction)


def quadratic() -> Family:
    """The posterior of a Gaussian mean in 10 directions with uneven scales, off its center."""
    random = np.random.default_rng(3)
    return _of(random.normal(size=(2_000, 10)) * np.linspace(0.2, 1.0, 10) + 0.08)


def label_noise(steps: int = 600) -> Family:
    """A digits MLP with 20 % wrong labels, trained for some steps."""
    return _network("mlp", steps, wrong=0.2)


def late(steps: int = 3_000) -> Family:
    """A digits CNN late in training, when a few examples are not learnt yet."""
    return _network("cnn", steps, wrong=0.0)


def _of(gradients: np.ndarray) -> Family:
    return Family(gradients @ gradients.T)


@lru_cache
def _network(kind: str, steps: int, wrong: float, rate: float = 0.1) -> Family:
    torch.manual_seed(0)
    problem = load("digits", model=kind)
    model = problem.model()
    inputs, labels = problem.train.batch(torch.arange(len(problem.train)))
    random = torch.Generator().manual_seed(0)
    swapped = torch.rand(len(labels), generator=random) < wrong
    labels = torch.where(swapped, torch.randint(10, labels.shape, generator=random), labels)
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    for _ in range(steps):
        drawn = torch.randint(len(labels), (32,), generator=random)
        optimizer.zero_grad()
        functional.cross_entropy(model(inputs[drawn]), labels[drawn]).backward()
        optimizer.step()
    each = Objective(model, problem.loss).per_example_gradients((inputs, labels), seed=0)
    gram = sum(rows.flatten(1).double() @ rows.flatten(1).double().T for rows in each)
    return Family(gram.numpy())


FAMILIES: dict[str, Callable[[], Family]] = {
    "1 % of the examples, half of the loss": outliers,
    "a rare class with large gradients": rare_class,
    "lognormal lengths": lognormal,
    "label noise, digits MLP": label_noise,
    "a digits CNN late in training": late,
    "Gaussian posterior": quadratic,
}
