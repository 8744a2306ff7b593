"""Problems with known per-example gradients, at one or many points at once, without autograd."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from gradiometer.measurement import Batch, Objective
from gradiometer.problems.examples import Examples
from gradiometer.problems.images import digits
from gradiometer_lab.closed_forms.quadratic import Position, Quadratic, output_losses

# N, small enough that a batch of 32 without replacement has half the noise of one with replacement.
EXAMPLES = 64

# Digits that look alike, so that a small network cannot separate all of them.
LABELS = (3, 5, 8)

Points = Float[Tensor, "chains params"]
Weights = Float[Tensor, "chains sets examples"]


class Gradients(NamedTuple):
    """At every point: gradients of weighted sets of examples and of the whole training set, and tr
    Σ.

    Σ is the covariance of the gradient of one example drawn from the training set, with N in the
    denominator.
    """

    of_sets: Float[Tensor, "chains sets params"]
    of_train: Float[Tensor, "chains params"]
    gradient_variance: Float[Tensor, " chains"]


@dataclass(frozen=True, eq=False)
class KnownProblem(ABC):
    """A finite training set and a loss with explicit gradients.

    Args:
        name: Name of the problem.
        examples: The training set.
        point: Φ, the fixed point of the tests, and the start of chains.
    """

    name: str
    examples: Examples
    point: Float[Tensor, " params"]

    @abstractmethod
    def gradients(self, points: Points, weights: Weights) -> Gradients:
        """The gradients at every point, for weights over the examples that sum to one
        in every set."""

    @abstractmethod
    def objective(self) -> Objective:
        """The same loss as a PyTorch model at `point`, for the instrument to measure."""

    @property
    @abstractmethod
    def layers(self) -> dict[str, slice]:
        """The columns of a gradient that belong to each layer, by the layer's name in the model."""

    def stationary_noise_scale(self, learning_rate: float, batch_size: int) -> float | None:
        """tr Σ over E‖g‖² along SGD at stationarity, in closed form; None if it is not known."""
        return None

    @cached_property
    def per_example(self) -> Float[Tensor, "examples params"]:
        """The gradient of every example at `point`."""
        each = torch.eye(len(self.examples), dtype=torch.float64)
        return self.gradients(self.point[None], each[None]).of_sets[0]

    def batch(self, index: Int[Tensor, " chosen"]) -> Batch:
        """The examples at these positions."""
        return self.examples.batch(index)


@dataclass(frozen=True, eq=False)
class KnownQuadratic(KnownProblem):
    """The noisy quadratic on a finite set of examples: g_i = H(Φ − x_i), and tr Σ is the same
    everywhere.

    Args:
        quadratic: Its closed forms, with the minimum and the noise of this training set.
    """

    quadratic: Quadratic

    def gradients(self, points: Points, weights: Weights) -> Gradients:
        """H(Φ − Σ_i w_i x_i)."""
        curvature, minimum = (
            torch.from_numpy(part) for part in (self.quadratic.curvature, self.quadratic.minimum)
        )
        gradient_variance = torch.full(
            (len(points),), self.quadratic.gradient_variance, dtype=torch.float64
        )
        away = points[:, None] - weights @ torch.as_tensor(self.examples.data)
        return Gradients(away @ curvature, (points - minimum) @ curvature, gradient_variance)

    def objective(self) -> Objective:
        """A `Position` at the point."""
        return Objective(Position(self.quadratic, self.point.numpy()), output_losses)

    def stationary_noise_scale(self, learning_rate: float, batch_size: int) -> float:
        """tr Σ / tr(HSH), with S the stationary covariance."""
        return self.quadratic.gradient_variance / self.quadratic.stationary_squared_gradient(
            learning_rate, batch_size
        )

    @property
    def layers(self) -> dict[str, slice]:
        """One layer: the position."""
        return {"model": slice(None)}


@dataclass(frozen=True, eq=False)
class KnownNetwork(KnownProblem):
    """A classifier: fully connected layers with tanh between them, cross-entropy, weight decay
    within the loss.

    Φ is one matrix [out, in + 1] per layer, whose last column is the bias. The gradient of an
    example's loss is the outer product of the error δ at the layer's output with the layer's input,
    with a one appended, plus λ times the matrix.

    Args:
        widths: Features, units of each hidden layer, classes.
        weight_decay: λ of the penalty λ/2 ‖Φ‖² in every example's loss.
    """

    widths: tuple[int, ...]
    weight_decay: float

    def gradients(self, points: Points, weights: Weights) -> Gradients:
        """Back-propagation by hand, for all chains at once: ‖δ aᵀ‖² = ‖δ‖² ‖a‖² gives tr Σ."""
        chains, sets, examples = weights.shape
        # The whole training set is one more set of examples.
        weights = torch.cat([weights, weights.new_full((chains, 1, examples), 1 / examples)], dim=1)
        inputs, errors = self._propagate(points)
        sums, squared = [], points.new_zeros(chains, examples)
        for entering, error in zip(inputs, errors, strict=True):
            weighted = (weights[:, :, None] * error[:, None]).reshape(chains, -1, examples)
            sums.append((weighted @ entering.mT).reshape(chains, sets + 1, -1))
            squared += error.square().sum(1) * entering.square().sum(1)
        means = torch.cat(sums, dim=2)
        gradient_variance = squared.mean(1) - means[:, -1].square().sum(1)
        means += self.weight_decay * points[:, None]
        return Gradients(means[:, :-1], means[:, -1], gradient_variance)

    def objective(self) -> Objective:
        """The same network as a `Sequential` of `Linear` and `Tanh`."""
        modules: list[nn.Module] = []
        for matrix in self._matrices(self.point[None]):
            linear = nn.Linear(matrix.shape[2] - 1, matrix.shape[1], dtype=torch.float64)
            with torch.no_grad():
                linear.weight.copy_(matrix[0, :, :-1])
                linear.bias.copy_(matrix[0, :, -1])
            modules += [linear, nn.Tanh()]
        return Objective(nn.Sequential(*modules[:-1]), self._losses)

    @property
    def layers(self) -> dict[str, slice]:
        """The linear layers by their index in the `Sequential`."""
        ends = np.cumsum(
            [0, *((inside + 1) * outside for inside, outside in pairwise(self.widths))]
        ).tolist()
        return {f"{2 * place}": slice(*span) for place, span in enumerate(pairwise(ends))}

    def _losses(self, model: nn.Module, batch: Batch) -> Float[Tensor, " examples"]:
        features, labels = batch
        penalty = torch.stack([parameter.square().sum() for parameter in model.parameters()]).sum()
        return (
            F.cross_entropy(model(features), labels, reduction="none")
            + self.weight_decay / 2 * penalty
        )

    def _matrices(self, points: Points) -> list[Float[Tensor, "chains outs ins"]]:
        shapes = zip(self.layers.values(), pairwise(self.widths), strict=True)
        return [
            points[:, columns].unflatten(1, (outside, inside + 1))
            for columns, (inside, outside) in shapes
        ]

    def _propagate(self, points: Points) -> tuple[list[Tensor], list[Tensor]]:
        """Forward and back: every layer's inputs [chains, in + 1, examples] and errors [chains,
        out, examples]."""
        features, labels = self.examples.data
        matrices = self._matrices(points)
        ones = points.new_ones(len(points), 1, len(features))
        inputs = [torch.cat([features.T.expand(len(points), -1, -1), ones], dim=1)]
        for matrix in matrices[:-1]:
            inputs.append(torch.cat([torch.tanh(matrix @ inputs[-1]), ones], dim=1))
        # p − y, the gradient of the cross-entropy at the logits.
        errors = [torch.softmax(matrices[-1] @ inputs[-1], dim=1) - F.one_hot(labels).T]
        for matrix, leaving in zip(matrices[:0:-1], inputs[:0:-1], strict=True):
            units = leaving[:, :-1]
            errors.insert(0, (matrix[:, :, :-1].mT @ errors[0]) * (1 - units.square()))
        return inputs, errors


def known_problems() -> tuple[KnownProblem, ...]:
    """A quadratic, a logistic regression and a network with one hidden layer, in
    double precision."""
    return (
        known_quadratic(),
        known_network("logistic regression", hidden=()),
        known_network("MLP", hidden=(6,)),
    )


def known_quadratic() -> KnownQuadratic:
    """Ten parameters with curvatures from 0.1 to 1 and noise in proportion, Σ = H, on
    64 examples."""
    curvatures = np.geomspace(0.1, 1, 10)
    train = Quadratic(curvatures, curvatures).problem(examples=EXAMPLES, seed=0).train
    # The closed forms of these 64 examples, not of the law they were drawn from.
    quadratic = Quadratic(curvatures, curvatures).on(train)
    return KnownQuadratic("quadratic", train, torch.from_numpy(quadratic.minimum) + 0.5, quadratic)


def known_network(name: str, hidden: tuple[int, ...], weight_decay: float = 0.3) -> KnownNetwork:
    """64 threes, fives and eights of the digits, at 4 × 4 pixels: three classes.

    Without weight decay the network would memorise the 64 examples: then almost all gradients are
    near zero and a few are large, and the spread of hundreds of readings is too small.
    """
    images, labels = digits.load().train.data
    chosen = torch.isin(labels, torch.tensor(LABELS)).nonzero().flatten()[:EXAMPLES]
    features = F.avg_pool2d(images[chosen].double(), 2).flatten(1)
    features = (features - features.mean(0)) / features.std()
    classes = torch.searchsorted(torch.tensor(LABELS), labels[chosen])
    widths = (features.shape[1], *hidden, len(LABELS))
    size = sum((inside + 1) * outside for inside, outside in pairwise(widths))
    point = 0.5 * torch.randn(size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return KnownNetwork(name, Examples((features, classes), "train"), point, widths, weight_decay)
