"""Units of a network that take no part: ReLUs that answer zero to everything, and twins held by a symmetry."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from gradiometer.measurement.batch import Batch
from gradiometer.measurement.objective import Objective

RELUS: tuple[Any, ...] = (
    *(functional.relu, functional.relu_, functional.relu6),
    *(torch.relu, torch.relu_, Tensor.relu, Tensor.relu_),
)

EQUAL = 1e-6
"""Twins differ by no more than this, relative to their size: rounding, and no noise of training."""

FEW = 64
"""A model of so few numbers is looked at number by number."""


def dead_units(objective: Objective, batch: Batch, seed: int = 0) -> Mapping[str, tuple[int, int]]:
    """For every ReLU of the model: how many units answer zero to every example given, and how many there are.

    A dead unit's own weights have no gradient on these examples. A unit is an entry of the last axis, of images
    (four axes and more) a channel. Costs one gradient; ReLUs within compiled or scripted modules are not seen.
    """
    watch = _Relus()
    with watch:
        objective.gradient(batch, seed=seed)
    return {f"ReLU {place + 1}": (int((~alive).sum()), len(alive)) for place, alive in enumerate(watch.alive)}


class _Relus(TorchFunctionMode):
    """Sees every ReLU that is called."""

    def __init__(self) -> None:
        super().__init__()
        self.alive: list[Tensor] = []

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[Any],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        answer = func(*args, **(kwargs or {}))
        if any(func is relu for relu in RELUS) and isinstance(answer, Tensor) and answer.dim() >= 2:
            units = 1 if answer.dim() >= 4 else answer.dim() - 1
            self.alive.append((answer.detach() > 0).movedim(units, 0).flatten(1).any(dim=1).cpu())
        return answer


def twin_units(model: nn.Module) -> Mapping[str, tuple[int, int]]:
    """For every weight matrix with twins: how many of its rows equal another up to sign, and how many there are.

    Random numbers start no twins. A symmetric start, such as equal weights, makes them, and training keeps them: the
    gradient respects the symmetry, whatever the noise. Of a model of at most 64 numbers, each number is a row. Rows of
    zeros do not count.
    """
    named = [(name, parameter.detach()) for name, parameter in model.named_parameters() if parameter.requires_grad]
    if sum(parameter.numel() for _, parameter in named) <= FEW:
        rows = torch.cat([parameter.double().reshape(-1, 1) for _, parameter in named])
        found = {"parameters": (_twins(rows), len(rows))}
    else:
        found = {
            name: (_twins(rows), len(rows))
            for name, rows in ((name, p.flatten(1)) for name, p in named if p.dim() >= 2 and p[0].numel() >= 4)
        }
    return {name: counts for name, counts in found.items() if counts[0]}


def _twins(rows: Float[Tensor, "rows columns"]) -> int:
    """How many rows equal another, or its negative."""
    rows = rows.cpu().double()
    sizes = rows.norm(dim=1)
    rows, sizes = rows[sizes > 0], sizes[sizes > 0]
    if len(rows) < 2:
        return 0
    direction = torch.randn(rows.shape[1], generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    order: Int[Tensor, " rows"] = (rows @ direction).abs().argsort()
    rows, sizes = rows[order], sizes[order]
    apart = torch.minimum((rows[1:] - rows[:-1]).norm(dim=1), (rows[1:] + rows[:-1]).norm(dim=1))
    equal = apart <= EQUAL * sizes[1:]
    member = torch.zeros(len(rows), dtype=torch.bool)
    member[1:] |= equal
    member[:-1] |= equal
    return int(member.sum())
