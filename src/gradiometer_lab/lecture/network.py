"""The real networks of the lecture, on the digits: an MLP some steps into training, with every
example's gradient known, and many softmax regressions at once, with exactly known minimum,
curvature and noise."""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from gradiometer.convergence.schedules import Constant, Schedule
from gradiometer.measurement import (
    Batch,
    Draw,
    Estimate,
    Estimates,
    Gauge,
    Objective,
    Reading,
    Sampling,
    Series,
    TrainingStep,
)
from gradiometer.measurement.gradient_graph import flat
from gradiometer.problems.examples import Examples
from gradiometer.problems.images.digits import load
from gradiometer_lab.closed_forms.quadratic import Quadratic
from gradiometer_lab.lecture.statement import LEVEL, mean_estimate

MLP = "the digits' MLP, 64-64-10"

# The parameters of a network, tensor by tensor.
Weights = Sequence[Tensor]


@dataclass(frozen=True)
class Network:
    """A network with fixed parameters, and its training set.

    Args:
        objective: The model, 64-64-10 with ReLU, and the cross-entropy.
        train: The 1,437 images.
    """

    objective: Objective
    train: Examples

    @property
    def everything(self) -> Batch:
        """The training set as one batch."""
        return self.train.batch(torch.arange(len(self.train)))

    @cached_property
    def per_example(self) -> Float[Tensor, "examples params"]:
        """g_i of every example, in double precision."""
        gradients = self.objective.per_example_gradients(self.everything)
        return torch.cat([part.reshape(len(self.train), -1) for part in gradients], dim=1).double()

    @cached_property
    def gradient(self) -> Float[Tensor, " params"]:
        """g, the Train gradient."""
        return self.per_example.mean(dim=0)

    @cached_property
    def gradient_variance(self) -> float:
        """Tr Σ, with N in the denominator: for the gradient of an example drawn from the training
        set."""
        return float((self.per_example - self.gradient).square().sum(dim=1).mean())

    def noise_of_batch(self, size: int) -> float:
        """E‖ĝ − g‖² of a batch drawn without replacement: tr Σ/B · (N − B)/(N − 1)."""
        total = len(self.train)
        return self.gradient_variance / size * (total - size) / (total - 1)

    def loss(self, weights: Weights) -> float:
        """L_Train of a network with these weights, tensor by tensor."""
        # A copy, because the network of the lecture is cached: every statement measures the same
        # one.
        model = copy.deepcopy(self.objective.model)
        with torch.no_grad():
            torch._foreach_copy_(list(model.parameters()), list(weights))
            return float(self.objective.loss(model, self.everything).mean())

    def barrier(self, one: Weights, other: Weights) -> float:
        """L halfway between two networks less the mean of L at both: never above zero for a convex
        loss."""
        middle = torch._foreach_lerp(list(one), list(other), 0.5)
        return self.loss(middle) - (self.loss(one) + self.loss(other)) / 2

    def batches(self, size: int, count: int, seed: int = 0) -> list[Int[Tensor, " chosen"]]:
        """Independent batches, each drawn without replacement."""
        generator = torch.Generator().manual_seed(seed)
        return [torch.randperm(len(self.train), generator=generator)[:size] for _ in range(count)]

    def batch_gradient(self, chosen: Int[Tensor, " chosen"]) -> Float[Tensor, " params"]:
        """ĝ of one batch, by torch's own backward."""
        return flat(self.objective.gradient(self.train.batch(chosen))).double()

    def sgd(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, size: int, count: int, seed: int
    ) -> Iterator[int]:
        """Train a model on batches of the training set. Yields the number of steps after each."""
        for step, chosen in enumerate(self.batches(size, count, seed), start=1):
            optimizer.zero_grad()
            self.objective.loss(model, self.train.batch(chosen)).mean().backward()
            optimizer.step()
            yield step

    def after(
        self, steps: int, size: int, learning_rate: float, seed: int
    ) -> Float[Tensor, " params"]:
        """The parameters after steps of torch's SGD from here."""
        model = copy.deepcopy(self.objective.model)
        for _ in self.sgd(
            model, torch.optim.SGD(model.parameters(), lr=learning_rate), size, steps, seed
        ):
            pass
        return flat(model.parameters()).detach().double()

    def moves(
        self, size: int, count: int, seed: int, learning_rate: float, momentum: float = 0.0
    ) -> Iterator[Float[Tensor, " params"]]:
        """The moves that steps of torch's SGD make from here: the model is put back after every
        step."""
        model = copy.deepcopy(self.objective.model)
        start = flat(model.parameters()).detach()
        optimizer = torch.optim.SGD(model.parameters(), lr=learning_rate, momentum=momentum)
        for _ in self.sgd(model, optimizer, size, count, seed):
            yield (flat(model.parameters()).detach() - start).double()
            # The parameters go back, the momentum stays: a move shows what the optimizer remembers.
            nn.utils.vector_to_parameters(start.clone(), model.parameters())

    def estimates(
        self,
        gauge: Gauge,
        size: int,
        count: int,
        seed: int,
        learning_rate: float,
        probe: Callable[[], Batch] | None = None,
    ) -> Estimates:
        """The estimates of one of the library's gauges, over steps that all begin here."""
        # Different examples within a batch, as in an epoch: the estimates correct for their number.
        readings, sampling = [], Sampling(Draw.RESHUFFLED, len(self.train))
        for index, chosen in enumerate(self.batches(size, count, seed)):
            step = TrainingStep(
                self.objective,
                self.train.batch(chosen),
                index=index,
                learning_rate=learning_rate,
                sampling=sampling,
                probe=probe,
            )
            moments = gauge.measure(step)
            if moments is not None:
                readings.append(Reading(gauge.name, index, size, learning_rate, moments))
        return gauge.estimate(Series.of(readings, sampling, self.objective.layers), LEVEL)


@cache
def digits_network(steps: int = 100) -> Network:
    """The digits' MLP after plain SGD at η = 0.1 and B = 32."""
    torch.manual_seed(0)
    problem = load("mlp")
    model = problem.model()
    network = Network(Objective(model, problem.loss), problem.train)
    for _ in network.sgd(model, torch.optim.SGD(model.parameters(), lr=0.1), 32, steps, seed=1):
        pass
    return network


RUNS = 64

# The batch size of the runs.
SIZE = 8

# A weight decay that makes the loss strongly convex.
DECAY = 0.1


class Regressions:
    """Softmax regressions on the digits: one model of 650 parameters, with all runs in one tensor.

    Args:
        seed: Seed of the batches.
        batch_size: B.
        start: Standard deviation of the weights at the start, drawn per run.
    """

    def __init__(self, seed: int, batch_size: int = SIZE, start: float = 0.0) -> None:
        images, labels = digits_network().everything
        self.inputs = torch.cat(
            [images.flatten(1).double(), torch.ones(len(images), 1).double()], dim=1
        )
        self.labels = labels
        self.batch_size = batch_size
        self.generator = torch.Generator().manual_seed(seed)
        shape = (RUNS, self.inputs.shape[1], 10)
        self.weights = start * torch.randn(shape, dtype=torch.float64, generator=self.generator)

    @property
    def positions(self) -> Float[np.ndarray, "runs params"]:
        """The parameters of every run."""
        return self.weights.flatten(1).numpy()

    def put(self, position: Float[np.ndarray, " params"]) -> None:
        """Put all runs at one point."""
        self.weights = torch.from_numpy(position).reshape(1, -1, 10).repeat(RUNS, 1, 1)

    def train(self, schedule: Schedule, steps: int) -> Float[Tensor, "runs inputs classes"]:
        """Steps of SGD on batches of independent draws. Returns the mean of the iterates."""
        total = torch.zeros_like(self.weights)
        for step in range(steps):
            chosen = torch.randint(
                len(self.labels), (RUNS, self.batch_size), generator=self.generator
            )
            self.weights = self.weights - schedule(step) * self.gradient(self.weights, chosen)
            total += self.weights
        return total / steps

    def stationary_mean(
        self,
        rate: float,
        reading: Callable[[], Float[np.ndarray, " runs"]],
        *,
        forgetting: int,
        looks: int,
        between: int,
    ) -> Estimate:
        """The mean of a number of every run, over looks at them after they have forgotten that they
        began at the minimum. The runs are independent.

        Args:
            rate: η.
            reading: The number, of the runs as they are.
            forgetting: Steps before the first look, times η.
            looks: Number of looks.
            between: Steps from one look to the next, times η.
        """
        self.put(minimum().minimum)
        self.train(Constant(rate), int(forgetting / rate))
        total = np.zeros(RUNS)
        for _ in range(looks):
            self.train(Constant(rate), int(between / rate))
            total += reading() / looks
        return mean_estimate(total)

    def gradient(
        self, weights: Float[Tensor, "runs inputs classes"], chosen: Int[Tensor, "runs examples"]
    ) -> Float[Tensor, "runs inputs classes"]:
        """ĝ of every run on its own batch, including weight decay."""
        inputs = self.inputs[chosen]
        errors = torch.softmax(inputs @ weights, dim=-1)
        # p − y without a one-hot copy of the labels for every run.
        errors.scatter_add_(2, self.labels[chosen][..., None], -torch.ones_like(errors[..., :1]))
        return inputs.mT @ errors / chosen.shape[1] + DECAY * weights

    def entropies(
        self, probabilities: Float[Tensor, "runs examples classes"]
    ) -> Float[np.ndarray, " runs"]:
        """The mean cross-entropy of probabilities, without weight decay."""
        return (
            -probabilities[:, torch.arange(len(self.labels)), self.labels].log().mean(dim=1).numpy()
        )

    def losses(self, weights: Float[Tensor, "runs inputs classes"]) -> Float[np.ndarray, " runs"]:
        """L_Train of every run, including weight decay."""
        scores = torch.log_softmax(self.inputs @ weights, dim=-1)
        entropy = -scores[:, torch.arange(len(self.labels)), self.labels].mean(dim=1)
        return (entropy + DECAY / 2 * weights.square().sum(dim=(1, 2))).numpy()

    @cached_property
    def largest_curvature(self) -> float:
        """No curvature of the loss is above it: half the largest one of the inputs, plus the decay.

        Source: Böhning (1992), Multinomial Logistic Regression Algorithm, theorem 1: diag p − p pᵀ
        ⪯ ½(I − 11ᵀ/k).
        """
        inputs = self.inputs.T @ self.inputs / len(self.inputs)
        return float(torch.linalg.eigvalsh(inputs)[-1]) / 2 + DECAY

    def at_the_minimum(self) -> Quadratic:
        """The quadratic that the loss is near its minimum, with the exact H and Σ there: see
        `minimum`."""
        everything = torch.arange(len(self.labels)).expand(1, -1)
        weights = torch.zeros_like(self.weights[:1])
        # Newton's method: the residual falls to rounding in about eight steps.
        for _ in range(12):
            slope = self.gradient(weights, everything).reshape(-1)
            weights = weights - torch.linalg.solve(self._hessian(weights[0]), slope).reshape(
                weights.shape
            )
        shares = torch.softmax(self.inputs @ weights[0], dim=-1)
        shares[torch.arange(len(self.labels)), self.labels] -= 1
        # the decay is the same for all examples
        each = (self.inputs[:, :, None] * shares[:, None, :]).flatten(1)
        # N in the denominator: the batches are drawn from these examples.
        return Quadratic(
            self._hessian(weights[0]).numpy(),
            torch.cov(each.T, correction=0).numpy(),
            weights.flatten().numpy(),
        )

    def _hessian(self, weights: Float[Tensor, "inputs classes"]) -> Float[Tensor, "params params"]:
        """Mean of (diag p − p pᵀ) ⊗ x xᵀ, plus the decay."""
        shares = torch.softmax(self.inputs @ weights, dim=-1)
        size = weights.numel()
        between = torch.diag_embed(shares) - shares[:, :, None] * shares[:, None, :]
        pairs = (self.inputs[:, :, None] * self.inputs[:, None, :]).flatten(1)
        blocks = pairs.T @ between.flatten(1) / len(shares)
        inputs = len(weights)
        hessian = (
            blocks.reshape(inputs, inputs, *between.shape[1:])
            .permute(0, 2, 1, 3)
            .reshape(size, size)
        )
        return hessian + DECAY * torch.eye(size, dtype=torch.float64)


@cache
def minimum() -> Quadratic:
    """The quadratic that the loss of all regressions is near its minimum: it depends on the data
    and the decay only."""
    return Regressions(seed=0).at_the_minimum()
