"""How often does the interval for the share of directions that curve down contain the exact share?

    python benchmarks/negative_coverage.py [--surveys 400]

Seven Hessians: of a digits MLP of 985 parameters whose examples have lognormal weights, or of which 1 % carry half of
the loss, or 20 % have wrong labels; of a digits CNN late in training; of the posterior of a Gaussian; of a saddle; and
of a network of 51 parameters. Each is computed whole, so that its share is exact, and gets that many surveys with other
random probes, 8 of 40 iterations, as in `gradiometer sharpness`. The table counts the intervals, nominal 90 %, that
contain the exact share, those that end below it and above it, and the shares that are resolved. 10 minutes of one core.
"""

from collections.abc import Callable, Iterator

import click
import numpy as np
import torch
from negative_curvature import exact_share
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional

from gradiometer import Objective
from gradiometer.drift import Curvature, survey
from gradiometer.measurement.estimate import Estimate
from gradiometer.problems import load

EXAMPLES, DIRECTIONS = 300, 200


class Known(Curvature):
    """A Hessian whose matrix is computed once, so that many surveys of it are cheap."""

    matrix: Tensor

    @classmethod
    def of_loss(cls, model: nn.Module, loss: Callable[..., Tensor], batch: tuple[Tensor, ...]) -> "Known":
        """The Hessian of the mean loss of these examples."""
        known, eye = cls.of(Objective(model, loss), batch), torch.eye(sum(each.numel() for each in model.parameters()))
        known.matrix = torch.cat([Curvature.products(known, rows) for rows in eye.double().split(64)])
        return known

    def products(self, vectors: Tensor) -> Tensor:
        """H v for every row v."""
        self.products_made += len(vectors)
        return vectors @ self.matrix

    def surveyed(self, seed: int) -> Estimate:
        """The share of one survey."""
        self.generator = torch.Generator().manual_seed(seed)
        return survey(self, of=EXAMPLES, top=1).negative_share


def hessians() -> Iterator[tuple[str, Known]]:
    """Each with its name."""
    draws, problem = torch.Generator().manual_seed(0), load("digits")
    images, labels = problem.train.batch(torch.arange(EXAMPLES))
    images, one = images.double(), torch.ones(EXAMPLES, dtype=torch.float64)
    few = torch.where(torch.arange(EXAMPLES) < EXAMPLES // 100, 99.0, 1.0).double()
    yield "1 % of the examples, half of the loss", trained(perceptron(64, 13, 10), images.flatten(1), labels, few, 300)
    uneven = torch.randn(EXAMPLES, generator=draws).double().exp()
    yield "lognormal weights", trained(perceptron(64, 13, 10), images.flatten(1), labels, uneven, 300)
    others = torch.randint(10, (EXAMPLES,), generator=draws)
    wrong = torch.where(torch.rand(EXAMPLES, generator=draws) < 0.2, others, labels)
    yield "20 % wrong labels", trained(perceptron(64, 13, 10), images.flatten(1), wrong, one, 1000)
    torch.manual_seed(0)
    yield (
        "a digits CNN late in training",
        trained(load("digits", model="cnn").model().double(), images, labels, one, 1500),
    )
    sizes = 0.1 + torch.rand(DIRECTIONS, generator=draws).double()
    yield "posterior of a Gaussian", quadratic(sizes)
    yield "a saddle, 30 % down", quadratic(torch.where(torch.arange(DIRECTIONS) < 60, -sizes, sizes))
    squares = images.reshape(EXAMPLES, 2, 4, 2, 4).mean(dim=(2, 4)).flatten(1)
    yield "a network of 51 parameters", trained(perceptron(4, 7, 2), squares, labels % 2, one, 300)


def perceptron(inputs: int, hidden: int, outputs: int) -> nn.Module:
    """One hidden layer of tanh."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(inputs, hidden), nn.Tanh(), nn.Linear(hidden, outputs)).double()


def trained(model: nn.Module, inputs: Tensor, labels: Tensor, weights: Tensor, steps: int) -> Known:
    """The Hessian after some steps on all examples."""
    batch = inputs, labels, weights / weights.mean()

    def loss(model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        return batch[2] * functional.cross_entropy(model(batch[0]), batch[1], reduction="none")

    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(model, batch).mean().backward()
        optimizer.step()
    return Known.of_loss(model, loss, batch)


def quadratic(curvatures: Tensor) -> Known:
    """A loss with these curvatures."""
    model = nn.Linear(len(curvatures), 1, bias=False).double()

    def loss(model: nn.Linear, batch: tuple[Tensor, ...]) -> Tensor:
        return (curvatures * model.weight[0] ** 2).sum() / 2 + 0 * batch[0][:, 0]

    return Known.of_loss(model, loss, (torch.zeros(EXAMPLES, 1, dtype=torch.float64),))


@click.command()
@click.option("--surveys", type=click.IntRange(min=1), default=400, show_default=True)
def main(surveys: int) -> None:
    torch.set_num_threads(1)
    table = Table(box=None, title=f"{surveys} surveys each")
    for column in ("Hessian", "exact", "zero", "covered", "below", "above", "resolved", "mean interval"):
        table.add_column(column, no_wrap=True)
    for name, known in hessians():
        exact, zero = exact_share(known)
        shares = [known.surveyed(seed) for seed in range(surveys)]
        low, high = np.array([(share.low, share.high) for share in shares]).T
        inside, resolved = (low <= exact) & (exact <= high), sum(not np.isnan(share.value) for share in shares)
        counts = (f"{count:,}" for count in (inside.sum(), (high < exact).sum(), (low > exact).sum(), resolved))
        table.add_row(name, f"{exact:.3f}", f"{zero:.3f}", *counts, f"[{low.mean():.3f}, {high.mean():.3f}]")
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
