"""Units of a network that do not contribute: ReLUs that are zero on all examples, and rows that
equal another."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from gradiometer.measurement import Batch, Objective

RELUS: tuple[Any, ...] = (
    *(functional.relu, functional.relu_, functional.relu6),
    *(torch.relu, torch.relu_, Tensor.relu, Tensor.relu_),
)


def dead_units_of(
    objective: Objective, batch: Batch, seed: int = 0
) -> Mapping[str, tuple[int, int]]:
    """For every ReLU of the model: the number of units that are zero on every example, and the
    number of units.

    The weights of a dead unit have no gradient on these examples. A unit is an entry of the last
    axis; for images (four axes and more) it is a channel. Costs one gradient. ReLUs in compiled or
    scripted modules are not seen.

    >>> import torch
    >>> from gradiometer.convergence.trajectory.dead_units import dead_units_of
    >>> from gradiometer import Objective, supervised
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1))
    >>> _ = model[0].weight.data.fill_(0), model[0].bias.data.fill_(-1)
    >>> dead_units_of(Objective(model, supervised(torch.nn.MSELoss())), (torch.randn(16, 3), torch.randn(16, 1)))
    {'ReLU 1': (8, 8)}
    """
    with _Relus() as relus:
        objective.gradient(batch, seed=seed)
    return {
        f"ReLU {place + 1}": (int((~alive).sum()), len(alive))
        for place, alive in enumerate(relus.alive)
    }


class _Relus(TorchFunctionMode):
    """Records which units of every called ReLU are above zero on some example."""

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


def twin_units_of(model: nn.Module) -> Mapping[str, tuple[int, int]]:
    """For every weight matrix with twins: the number of rows that equal another up to sign, and the
    number of rows.

    Random initial weights have no twins. A symmetric start, such as equal weights, has, and
    training keeps them: the gradient respects the symmetry, whatever the noise. In a model of at
    most 64 numbers, each number is a row. Rows of zeros do not count.
    """
    named = [
        (name, parameter.detach())
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    ]
    # 64: in a model of at most so many numbers, each number is a row.
    if sum(parameter.numel() for _, parameter in named) <= 64:
        rows = torch.cat([parameter.double().reshape(-1, 1) for _, parameter in named])
        found = {"parameters": (_twins(rows), len(rows))}
    else:
        found = {
            name: (_twins(rows), len(rows))
            for name, rows in (
                (name, p.flatten(1)) for name, p in named if p.dim() >= 2 and p[0].numel() >= 4
            )
        }
    return {name: counts for name, counts in found.items() if counts[0]}


def _twins(rows: Float[Tensor, "rows columns"]) -> int:
    """The number of rows that equal another, or its negative."""
    rows = rows.cpu().double()
    sizes = rows.norm(dim=1)
    rows, sizes = rows[sizes > 0], sizes[sizes > 0]
    if len(rows) < 2:
        return 0
    direction = torch.randn(
        rows.shape[1], generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    # Equal rows have equal projections: only neighbours along a random direction are compared.
    order: Int[Tensor, " rows"] = (rows @ direction).abs().argsort()
    rows, sizes = rows[order], sizes[order]
    apart = torch.minimum((rows[1:] - rows[:-1]).norm(dim=1), (rows[1:] + rows[:-1]).norm(dim=1))
    # 1e-6: twins differ by no more than this, relative to their size: it allows for rounding only.
    equal = apart <= 1e-6 * sizes[1:]
    member = torch.zeros(len(rows), dtype=torch.bool)
    member[1:] |= equal
    member[:-1] |= equal
    return int(member.sum())
