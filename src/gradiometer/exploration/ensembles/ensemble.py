"""Several models as one `nn.Module`: the mean of their probabilities."""

import copy
import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gradiometer.errors import BadArgument
from gradiometer.exploration.ensembles.snapshots import FEWEST, Snapshot


class Ensemble(nn.Module):
    """p(class | x) ∝ (Σ_m w_m softmax(f_m(x)))^{1/τ}: what the members say, averaged, then calibrated.

    The mean is taken of probabilities, in logarithms, so that one far below the smallest float keeps its loss. Members
    run one after the other in a plain loop, which every exporter follows, and take the memory of M models and the time
    of M forward passes. In training mode they do as they do in training: call `.eval()`, or `export`, which does.

    Args:
        members: Models from the same inputs to logits [examples, classes], the newest last. Not copied.
        weights: Of each member, not negative; scaled to a sum of 1. Left out, all the same.
        temperature: τ of the averaged prediction, fitted on data that are not scored; 1 leaves it as it is.

    Raises:
        BadArgument: There are fewer than two members, or weights or temperature are not such numbers.

    Source: Huang et al. (2017), Snapshot Ensembles, section 3, "Test-time ensembling"; the temperature of an average:
    Ashukha et al. (2020), Pitfalls of In-Domain Uncertainty Estimation, section 3.
    """

    weights: Tensor
    temperature: Tensor

    def __init__(
        self, members: Iterable[nn.Module], weights: Sequence[float] | None = None, temperature: float = 1.0
    ) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        count = len(self.members)
        if not count >= FEWEST:
            raise BadArgument(f"`members` must be at least {FEWEST} models, got {count}: the average of one is itself.")
        if not 0 < temperature < math.inf:
            raise BadArgument(f"`temperature` must be positive and finite, got {temperature}.")
        self.register_buffer("weights", _shares(weights, count))
        self.register_buffer("temperature", torch.tensor(float(temperature)))

    @classmethod
    def of_snapshots(cls, snapshots: Sequence[Snapshot], model: nn.Module, **settings: Any) -> "Ensemble":
        """The models the snapshots are of, in eval mode.

        Args:
            snapshots: In the order they were taken.
            model: Of their architecture; it is copied, not changed.
            settings: `weights` and `temperature`.

        Raises:
            BadArgument: One of them is of another architecture, or there is only one.
        """
        members = []
        for snapshot in snapshots:
            member = copy.deepcopy(model)
            snapshot.load_into(member)
            members.append(member)
        made = cls(members, **settings)
        return made.eval()

    def __len__(self) -> int:
        return len(self.members)

    def last(self, count: int, temperature: float = 1.0) -> "Ensemble":
        """The ensemble of the newest members, the same models, with equal weights."""
        if not FEWEST <= count <= len(self):
            raise BadArgument(f"`count` must lie between {FEWEST} and the {len(self)} members, got {count}.")
        made = Ensemble(list(self.members)[-count:], temperature=temperature)
        return made.train(self.training)

    def log_probabilities(self, *inputs: Any) -> Float[Tensor, "examples classes"]:
        """log p(class | x) for every example."""
        parts = []
        for member, share in zip(self.members, self.weights, strict=True):
            parts.append(torch.log_softmax(member(*inputs), dim=1) + share.log())
        mean = torch.logsumexp(torch.stack(parts), dim=0)
        return torch.log_softmax(mean / self.temperature, dim=1)

    def forward(self, *inputs: Any) -> Float[Tensor, "examples classes"]:
        """p(class | x) for every example."""
        return self.log_probabilities(*inputs).exp()


def _shares(weights: Sequence[float] | None, count: int) -> Float[Tensor, " members"]:
    if weights is None:
        return torch.full((count,), 1 / count)
    if len(weights) != count:
        raise BadArgument(f"`weights` must be one for each of the {count} members, got {len(weights)}.")
    if not all(0 <= weight < math.inf for weight in weights) or not sum(weights) > 0:
        raise BadArgument(f"`weights` must be finite, not negative, and not all zero, got {list(weights)}.")
    shares = torch.tensor(weights, dtype=torch.float64)
    return (shares / shares.sum()).float()
