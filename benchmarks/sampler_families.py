"""Posteriors of 500 examples for the studies of the samplers, each as the gradient of the mean loss of a batch."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import grad, vmap

from gradiometer.problems import load

EXAMPLES, DOUBLE = 500, torch.float64


@dataclass(frozen=True)
class Family:
    """A posterior of 500 examples: the gradient of the mean loss of a batch, for every run.

    Args:
        name: What it is called.
        start: Φ at the start.
        gradient: From positions [runs, params] and indices [runs, batch] to gradients without the prior.
        rate: η.
        steps: Measured steps at this rate; at a smaller one as many more.
        ends: The coldest and the hottest directions, if they are known: orthonormal columns.
    """

    name: str
    start: Tensor
    gradient: Callable[[Tensor, Tensor], Tensor]
    rate: float
    steps: int
    ends: tuple[Tensor, Tensor] | None = None


def directions() -> Iterator[Family]:
    """The six in which the temperature of every direction was looked at first."""
    draws = torch.Generator().manual_seed(0)
    hessian = _hessian(draws)
    offsets = _normal(draws, EXAMPLES, 5) * torch.tensor([1.0, 0.5, 0.3, 0.2, 0.1], dtype=DOUBLE)
    yield Family("conjugate", torch.zeros(5, dtype=DOUBLE), _gaussian(hessian, offsets), 0.1, 3000)
    inputs = _normal(draws, EXAMPLES, 5) @ torch.diag(torch.logspace(-0.75, 0, 5, dtype=DOUBLE))
    yield Family("ill-conditioned", torch.zeros(5, dtype=DOUBLE), _linear(inputs, _normal(draws, EXAMPLES)), 0.1, 8000)
    labels = (torch.sigmoid(2 * inputs.sum(dim=1)) > torch.rand(EXAMPLES, generator=draws)).double()
    yield Family("logistic regression", torch.zeros(5, dtype=DOUBLE), _logistic(inputs, labels), 0.3, 4000)
    student = torch.from_numpy(np.random.default_rng(0).standard_t(3, EXAMPLES)) / 3**0.5
    yield Family("heavy-tailed noise", torch.zeros(5, dtype=DOUBLE), _linear(inputs, student), 0.1, 8000)
    many, axes = 0.8 * _normal(draws, EXAMPLES, 100), torch.eye(100, dtype=DOUBLE)
    many[:, 60:] = 0
    gaussian = _gaussian(axes, many)
    yield Family("100 parameters", many.new_zeros(100), gaussian, 0.1, 1500, ends=(axes[:, 60:], axes[:, :60]))
    points = _normal(draws, EXAMPLES, 2)
    values = (points[:, :1] * 1.5).sin() + 0.3 * _normal(draws, EXAMPLES, 1)

    def loss(at: Tensor, x: Tensor, y: Tensor) -> Tensor:
        hidden = torch.tanh(x @ at[:6].view(2, 3) + at[6:9])
        return (hidden @ at[9:12].view(3, 1) + at[12] - y).square().mean() / 2

    small_mlp = vmap(grad(loss))
    start = 0.5 * _normal(draws, 13)
    yield Family("MLP 2-3-1", start, lambda at, index: small_mlp(at, points[index], values[index]), 0.05, 6000)


def coverage() -> Iterator[Family]:
    """Five kinds of noise, all of 5 parameters, on which the intervals of a run were judged."""
    draws, zeros = torch.Generator().manual_seed(1), torch.zeros(5, dtype=DOUBLE)
    hessian = _hessian(draws)
    yield Family("conjugate", zeros, _gaussian(hessian, 0.7 * _normal(draws, EXAMPLES, 5)), 0.1, 3000)
    lengths = _normal(draws, EXAMPLES, 1).exp()
    yield Family("lognormal lengths", zeros, _gaussian(hessian, lengths * _normal(draws, EXAMPLES, 5) / 5), 0.1, 3000)
    inputs, noise = _normal(draws, EXAMPLES, 5), _normal(draws, EXAMPLES) / 2
    noise[: EXAMPLES // 100] *= 10  # 1 % of the examples, half of the loss
    yield Family("1 % of the examples, half of the loss", zeros, _linear(inputs, noise), 0.1, 3000)
    labels = (inputs.sum(dim=1) > 0) ^ (torch.rand(EXAMPLES, generator=draws) < 0.2)
    yield Family("label noise", zeros, _logistic(inputs, labels.double()), 0.3, 3000)
    features, labels = _of_cnn()
    yield Family("last layer of a late CNN", zeros, _logistic(features, labels), 0.3, 3000)


FAMILIES: dict[str, Callable[[], Iterator[Family]]] = {"directions": directions, "coverage": coverage}


def _normal(draws: torch.Generator, *size: int) -> Tensor:
    return torch.randn(*size, generator=draws, dtype=DOUBLE)


def _hessian(draws: torch.Generator) -> Tensor:
    """Curvatures from 0.2 to 1 along random axes."""
    turn = torch.linalg.qr(_normal(draws, 5, 5))[0]
    return turn @ torch.diag(torch.linspace(0.2, 1, 5, dtype=DOUBLE)) @ turn.T


def _gaussian(hessian: Tensor, offsets: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda at, index: at @ hessian - offsets[index].mean(dim=1)


def _linear(inputs: Tensor, noise: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    def gradient(at: Tensor, index: Tensor) -> Tensor:
        errors = torch.einsum("rbi,ri->rb", inputs[index], at) - noise[index]
        return torch.einsum("rb,rbi->ri", errors, inputs[index]) / index.shape[1]

    return gradient


def _logistic(inputs: Tensor, labels: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    def gradient(at: Tensor, index: Tensor) -> Tensor:
        errors = torch.sigmoid(torch.einsum("rbi,ri->rb", inputs[index], at)) - labels[index]
        return torch.einsum("rb,rbi->ri", errors, inputs[index]) / index.shape[1]

    return gradient


def _of_cnn(steps: int = 1000) -> tuple[Tensor, Tensor]:
    """Four principal features of a digits CNN late in training and a constant, and whether the digit is an 8."""
    torch.manual_seed(0)
    problem = load("digits", model="cnn")
    model, draws = problem.model(), torch.Generator().manual_seed(0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        problem.loss(
            model, problem.train.batch(torch.randint(len(problem.train), (32,), generator=draws))
        ).mean().backward()
        optimizer.step()
    images, digits = problem.train.batch(torch.arange(EXAMPLES))
    with torch.no_grad():
        hidden = nn.Sequential(*list(model.children())[:-1])(images).flatten(1).double()
    axes = torch.linalg.svd(hidden - hidden.mean(dim=0), full_matrices=False)[0][:, :4]
    return torch.cat([axes * EXAMPLES**0.5, torch.ones(EXAMPLES, 1)], dim=1).to(DOUBLE), (digits == 8).double()
