"""An ensemble of models as one `nn.Module`: the mean of their probabilities."""

import copy
import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gradiometer.errors import BadArgument
from gradiometer.exploration.ensembles.ensemble_report import FEWEST
from gradiometer.exploration.ensembles.snapshots import Snapshot


class Ensemble(nn.Module):
    """p(class | x) ∝ (Σ_m w_m softmax(f_m(x)))^{1/τ}: the members' probabilities, averaged, then
    calibrated.

    The mean of the probabilities is computed in logarithms, so that a probability below the
    smallest float keeps its loss. The members run in a plain loop, which every exporter can follow;
    memory and time are those of M models. In
    training mode the members behave as in training: call `.eval()`, or `export`, which does.

    Args:
        members: Models from the same inputs to logits [examples, classes], the newest last. They
            are not copied.
        temperature: τ of the averaged prediction, fitted on data that are not scored.

    Raises:
        BadArgument: There are fewer than two members, or the temperature is invalid.

    Example:
        >>> import torch
        >>> from gradiometer import Ensemble
        >>> members = [torch.nn.Linear(1, 2, bias=False) for _ in range(2)]
        >>> for model, weight in zip(members, (1.0, 3.0)):
        ...     _ = torch.nn.init.constant_(model.weight[1], 0.0), torch.nn.init.constant_(model.weight[0], weight)
        >>> Ensemble(members)(torch.ones(1, 1)).detach()
        tensor([[0.8418, 0.1582]])

    Source: Huang et al. (2017), Snapshot Ensembles, section 3, "Test-time ensembling"; the
    temperature of an average: Ashukha et al. (2020), Pitfalls of In-Domain Uncertainty Estimation,
    section 3.
    """

    weights: Tensor
    temperature: Tensor

    def __init__(self, members: Iterable[nn.Module], temperature: float = 1.0) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        count = len(self.members)
        if not count >= FEWEST:
            raise BadArgument(
                f"`members` must be at least {FEWEST} models, got {count}: an average needs two."
            )
        if not 0 < temperature < math.inf:
            raise BadArgument(f"`temperature` must be positive and finite, got {temperature}.")
        # Buffers, so that exporters and moves to a device take them along.
        self.register_buffer("weights", torch.full((count,), 1 / count))
        self.register_buffer("temperature", torch.tensor(float(temperature)))

    @classmethod
    def of_snapshots(
        cls, snapshots: Sequence[Snapshot], model: nn.Module, **settings: Any
    ) -> "Ensemble":
        """The ensemble of the snapshots' models, in eval mode.

        Args:
            snapshots: In the order in which they were taken.
            model: A model of their architecture. It is copied, not changed.
            settings: `temperature`.

        Raises:
            BadArgument: A snapshot is of another architecture, or there is only one.
        """
        members = []
        for snapshot in snapshots:
            member = copy.deepcopy(model)
            snapshot.load_into(member)
            members.append(member)
        return cls(members, **settings).eval()

    def __len__(self) -> int:
        return len(self.members)

    def last(self, count: int, temperature: float = 1.0) -> "Ensemble":
        """The ensemble of the last `count` members, the same models."""
        if not FEWEST <= count <= len(self):
            raise BadArgument(
                f"`count` must lie between {FEWEST} and the {len(self)} members, got {count}."
            )
        return Ensemble(list(self.members)[-count:], temperature=temperature).train(self.training)

    def log_probabilities(self, *inputs: Any) -> Float[Tensor, "examples classes"]:
        """log p(class | x) for every example."""
        parts = [
            torch.log_softmax(member(*inputs), dim=1) + share.log()
            for member, share in zip(self.members, self.weights, strict=True)
        ]
        mean = torch.logsumexp(torch.stack(parts), dim=0)
        return torch.log_softmax(mean / self.temperature, dim=1)

    def forward(self, *inputs: Any) -> Float[Tensor, "examples classes"]:
        """p(class | x) for every example."""
        return self.log_probabilities(*inputs).exp()
