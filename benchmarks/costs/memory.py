"""The peak of what torch allocates during some work, in copies of a model's parameters, and of
watched steps.

Every storage that an operation makes is counted until it is freed, in the forward, the backward and
the update alike. What the C++ kernels use inside of one operation is not seen. So the numbers are
the same on every machine.
"""

import weakref
from collections.abc import Callable, Iterator
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gradiometer import watch

LENGTH = 32
"""Positions of a sequence."""


class Allocated(TorchDispatchMode):
    """Counts the bytes of the storages that are alive among those made inside, and their peak."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._alive: dict[int, int] = {}

    def __torch_dispatch__(
        self, operation: Any, types: Any, arguments: Any = (), named: Any = None
    ) -> Any:
        made = operation(*arguments, **(named or {}))
        given = {each.untyped_storage()._cdata for each in _tensors((arguments, named))}
        for tensor in _tensors(made):
            storage = tensor.untyped_storage()
            if storage._cdata not in given and storage._cdata not in self._alive:
                self._made(storage._cdata, storage.nbytes())
                weakref.finalize(storage, self._freed, storage._cdata)
        self.peak = max(self.peak, self.now)
        return made

    def _made(self, key: int, size: int) -> None:
        self._alive[key] = size
        self.now += size

    def _freed(self, key: int) -> None:
        self.now -= self._alive.pop(key, 0)


def peak_in_copies(model: nn.Module, work: Callable[[], object]) -> float:
    """The peak of what `work` allocates, in copies of the model's parameters."""
    size = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    with Allocated() as allocated:
        work()
    return allocated.peak / size


class Block(nn.Module):
    """A pre-norm block with attention to the past."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before_attention, self.before_layers = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attend, self.join = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.widen, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, states: Tensor) -> Tensor:
        """The states after the block, of the same shape [examples, positions, width]."""
        examples, positions, width = states.shape
        parts = self.attend(self.before_attention(states)).view(
            examples, positions, 3, self.heads, -1
        )
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        seen = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        states = states + self.join(seen.transpose(1, 2).reshape(examples, positions, width))
        narrowed: Tensor = self.narrow(functional.gelu(self.widen(self.before_layers(states))))
        return states + narrowed


class GPT(nn.Module):
    """On 256 symbols: eight blocks of width 512 have 25.5 million parameters."""

    def __init__(self, width: int = 512, blocks: int = 8, symbols: int = 256) -> None:
        super().__init__()
        self.symbol, self.place = nn.Embedding(symbols, width), nn.Embedding(LENGTH, width)
        self.blocks = nn.Sequential(*(Block(width, 8) for _ in range(blocks)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, symbols, bias=False)

    def forward(self, symbols: Tensor) -> Tensor:
        """The logits of the symbol after each, [examples, positions, symbols]."""
        places = torch.arange(symbols.shape[1]).expand(len(symbols), -1)
        logits: Tensor = self.head(
            self.norm(self.blocks(self.symbol(symbols) + self.place(places)))
        )
        return logits


def next_symbol(model: nn.Module, batch: Tensor) -> Tensor:
    """The cross-entropy of a sequence, averaged over its symbols, in nats."""
    return functional.cross_entropy(
        model(batch[:, :-1]).transpose(1, 2), batch[:, 1:], reduction="none"
    ).mean(1)


def peak_of_watch(optimizer: type[torch.optim.Optimizer], gauge: str) -> float:
    """The peak of two watched steps of the GPT, both measured, in copies of the parameters. ""
    measures nothing."""
    torch.manual_seed(0)
    model, batch = GPT(), torch.randint(256, (4, LENGTH + 1))
    trains = optimizer(model.parameters(), lr=1e-3)  # type: ignore[call-arg]
    settings: dict[str, Any] = {"gauges": [gauge], "every": 1} if gauge else {"budget": 0.0}
    with (
        TemporaryDirectory() as out,
        watch(
            model, trains, loss=next_symbol, out=out, page=False, quiet=True, **settings
        ) as watched,
    ):

        def step() -> None:
            trains.zero_grad()
            loss = next_symbol(model, batch).mean()
            loss.backward()
            watched.step(loss, batch)
            trains.step()

        step()
        return peak_in_copies(model, lambda: (step(), step()))


READINGS = {("SGD", "noise"): 1.1, ("AdamW", "noise"): 1.1, ("SGD", "batch_sharpness"): 3.15}
"""What is measured under which optimizer, and how many copies above training's own peak it should
hold at most."""


def peaks() -> Iterator[tuple[str, float, float]]:
    """What was measured, the copies of the parameters above training's own peak, and the target."""
    for (name, gauge), target in READINGS.items():
        optimizer = getattr(torch.optim, name)
        yield (
            f"peak memory, {name}, {gauge}",
            peak_of_watch(optimizer, gauge) - peak_of_watch(optimizer, ""),
            target,
        )


def _tensors(values: Any) -> Iterator[Tensor]:
    return (
        leaf
        for leaf in tree_leaves(values)
        if isinstance(leaf, Tensor) and leaf.layout == torch.strided
    )
