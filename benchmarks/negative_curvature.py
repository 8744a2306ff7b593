"""Does the interval for the share of directions that curve down contain the exact share?

    .venv/bin/python benchmarks/negative_curvature.py            # 40 networks, some minutes on one
    core

Networks of about 1,000 parameters on the digits, with three activations and two losses, at several
steps of training. Their Hessians over 300 examples are computed whole, so that the share of
eigenvalues below zero is exact. A survey has 8 probes and 40 iterations, as `measure sharpness`.
*raw* is the share of the quadrature's weight below zero.
"""

import argparse
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from gradiometer import Objective
from gradiometer.drift import Curvature
from gradiometer.drift.curvature import survey
from gradiometer.problems import load

STEPS = (0, 10, 50, 200, 1000)
LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cross-entropy": lambda outputs, labels: functional.cross_entropy(
        outputs, labels, reduction="none"
    ),
    "squared": lambda outputs, labels: (
        (outputs - functional.one_hot(labels, 10)).square().mean(dim=1)
    ),
}
MODELS: dict[str, Callable[[], nn.Module]] = {
    "tanh": lambda: _perceptron(nn.Tanh()),
    "ReLU": lambda: _perceptron(nn.ReLU()),
    "GELU": lambda: _perceptron(nn.GELU()),
    "linear": lambda: _perceptron(nn.Identity()),
}


def _perceptron(kind: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 13), kind, nn.Linear(13, 10))


def cases() -> Iterator[tuple[str, Curvature, int]]:
    """Name, Hessian and step of every case: models × losses × steps."""
    problem = load("digits")
    inputs, labels = problem.train.batch(torch.arange(300))
    batch = (inputs.double(), labels)
    for model_name, make in MODELS.items():
        for loss_name, loss in LOSSES.items():
            torch.manual_seed(0)
            model = make().double()
            objective = Objective(
                model, lambda model, batch, loss=loss: loss(model(batch[0]), batch[1])
            )
            optimizer, before = torch.optim.SGD(model.parameters(), lr=0.5), 0
            for step in STEPS:
                for _ in range(step - before):
                    optimizer.zero_grad()
                    loss(model(batch[0]), labels).mean().backward()
                    optimizer.step()
                before = step
                yield f"{model_name}, {loss_name}", Curvature.of(objective, batch, seed=step), step


def exact_share(curvature: Curvature) -> tuple[float, float]:
    """The share of eigenvalues below zero, and of those that are zero up to rounding."""
    eye = torch.eye(curvature.dimension, dtype=torch.float64)
    matrix = torch.cat([curvature.products(rows) for rows in eye.split(64)]).numpy()
    values = np.linalg.eigvalsh((matrix + matrix.T) / 2)
    zero = 1e-9 * np.abs(values).max()
    return float((values < -zero).mean()), float((np.abs(values) <= zero).mean())


def main() -> None:
    """Print the table."""
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    print("| network | step | exact | zero | share | raw | inside |\n|---|---|---|---|---|---|---|")
    inside = []
    for name, curvature, step in cases():
        exact, zero = exact_share(curvature)
        found = survey(curvature, of=300, step=step, top=1)
        share, density = found.negative_share, found.density
        raw = float(np.where(density.nodes < 0, density.weights, 0.0).sum(axis=1).mean())
        inside.append(share.low <= exact <= share.high)
        words = f"{share.value:.3f} [{share.low:.3f}, {share.high:.3f}]".replace(
            "nan", "not resolved"
        )
        print(
            f"| {name} | {step:,} | {exact:.3f} | {zero:.3f} | {words} | {raw:.3f} | {inside[-1]} "
            "|",
            flush=True,
        )
    print(f"\n{sum(inside)} of {len(inside)} inside")


if __name__ == "__main__":
    main()
