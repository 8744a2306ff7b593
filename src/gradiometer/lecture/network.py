"""The real network of the lecture: the digits' MLP some steps into training, with every example's gradient known."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from gradiometer.measurement.batch import Batch
from gradiometer.measurement.gradient_graph import flat
from gradiometer.measurement.objective import Objective
from gradiometer.problems.examples import Examples
from gradiometer.problems.images.digits import load

STEPS = 100


@dataclass(frozen=True)
class Network:
    """A network held still, and its training set.

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
        """Tr Σ, with N in the denominator: of the gradient of an example drawn from the training set."""
        return float((self.per_example - self.gradient).square().sum(dim=1).mean())

    def loss(self, weights: Sequence[Tensor]) -> float:
        """L_Train of a network with these weights, tensor by tensor."""
        model = copy.deepcopy(self.objective.model)
        with torch.no_grad():
            torch._foreach_copy_(list(model.parameters()), list(weights))
            return float(self.objective.loss(model, self.everything).mean())

    def barrier(self, one: Sequence[Tensor], other: Sequence[Tensor]) -> float:
        """L halfway between two networks less the mean of L at both: never above zero for a convex loss."""
        middle = torch._foreach_lerp(list(one), list(other), 0.5)
        return self.loss(middle) - (self.loss(one) + self.loss(other)) / 2

    def batches(self, size: int, count: int, seed: int = 0) -> list[Int[Tensor, " chosen"]]:
        """Batches drawn without replacement, each anew."""
        generator = torch.Generator().manual_seed(seed)
        return [torch.randperm(len(self.train), generator=generator)[:size] for _ in range(count)]

    def batch_gradient(self, chosen: Int[Tensor, " chosen"]) -> Float[Tensor, " params"]:
        """ĝ of one batch, by torch's own backward."""
        return flat(self.objective.gradient(self.train.batch(chosen))).double()


@cache
def digits_network(steps: int = STEPS) -> Network:
    """The digits' MLP after plain SGD at η = 0.1 and B = 32."""
    torch.manual_seed(0)
    problem = load("mlp")
    model = problem.model()
    network = Network(Objective(model, problem.loss), problem.train)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for chosen in network.batches(32, steps, seed=1):
        optimizer.zero_grad()
        problem.loss(model, problem.train.batch(chosen)).mean().backward()
        optimizer.step()
    return network


def geometric(low: float, high: float, count: int) -> tuple[float, ...]:
    """Positions of a dial, evenly spaced on a logarithmic axis."""
    return tuple(float(value) for value in np.geomspace(low, high, count))
