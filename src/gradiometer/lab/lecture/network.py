"""The real network of the lecture: the digits' MLP some steps into training, with every example's
gradient known."""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from gradiometer.lab.lecture.experiment import LEVEL
from gradiometer.measurement.batch import Batch
from gradiometer.measurement.estimate import Estimates
from gradiometer.measurement.gauge import Gauge
from gradiometer.measurement.gradient_graph import flat
from gradiometer.measurement.objective import Objective
from gradiometer.measurement.reading import Draw, Reading, Sampling, Series
from gradiometer.measurement.step import TrainingStep
from gradiometer.problems.examples import Examples
from gradiometer.problems.images.digits import load

MLP = "the digits' MLP, 64-64-10"

Weights = Sequence[Tensor]
"""The parameters of a network, tensor by tensor."""


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

    def measured(
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


def spaced_steps(last: int, count: int) -> tuple[int, ...]:
    """Steps from 1 to the last, evenly spaced on a logarithmic axis."""
    return tuple(int(step) for step in np.geomspace(1, last, count))
