"""Loops whose forward, loss, hook or backward keeps state outside of parameters and buffers, drawn
at random: a kind of state, where it is kept, from which step on it changes, what is measured, and
how the loop is watched."""

import array
import itertools
import math
import random
import types
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable
from contextlib import nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from gradiometer import GradiometerError, watch

STEPS = 14

# Behind it a sentence names what changes.
REFUSAL = "`loss` is not run again, since "

ITEMS: list[float] = []
TABLE: dict[str, float] = {}
NUMBER = 0.0
TENSORS: list[Tensor] = []
VARIABLE: ContextVar[float] = ContextVar("VARIABLE", default=0.0)
UNSET: ContextVar[float] = ContextVar("UNSET")
SPACE = types.SimpleNamespace(number=0.0)


class Clock:
    """The step of the loop, which the loop itself sets."""

    step = 0


class Slotted:
    """A generator and a number in slots."""

    __slots__ = ("generator", "number")

    def __init__(self) -> None:
        self.generator = torch.Generator().manual_seed(0)
        self.number = 0.0


@dataclass
class Statistics:
    """A moving average by hand."""

    mean: float = 0.0
    history: list[float] = field(default_factory=list)


class Keeper:
    """Keeps the state. Each method changes one kind of it, and returns a number that training
    uses."""

    shared: ClassVar[float] = 0.0
    listed: ClassVar[list[float]] = []
    drawn: ClassVar[torch.Generator]

    def __init__(self, kind: str) -> None:
        global NUMBER
        self.kind = kind
        self.rebound = torch.zeros(())
        self.written = torch.zeros(3)
        self.inner = torch.zeros(4, 4)
        self.large = torch.zeros(70_000)
        self.huge = torch.zeros(2**22 + 8) if kind == "huge" else None
        self.double = np.zeros(2)
        self.items: list[float] = []
        self.nested: dict[str, list[dict[str, float]]] = {"a": [{"b": 0.0}]}
        self.queue = deque([torch.zeros(2)], maxlen=3)
        self.cache: dict[Any, Tensor] = {}
        self.lazily: list[float] | None = None
        self.seen: set[int] = set()
        self.bytes = bytearray(b"\0")
        self.numbers = array.array("d", [0.0])
        self.sorted: OrderedDict[str, float] = OrderedDict(a=0.0, b=1.0)
        self.counts: defaultdict[str, float] = defaultdict(float)
        self.python = random.Random(0)
        self.numpy = np.random.default_rng(0)
        self.legacy = np.random.RandomState(0)
        self.torch = torch.Generator().manual_seed(0)
        self.slotted = Slotted()
        self.statistics = Statistics()
        self.frozen = nn.Linear(2, 2).requires_grad_(requires_grad=False)
        self.scaler = types.SimpleNamespace(scale=1.0)
        self.function = lambda: 0.0
        if kind == "counter":
            self.counter = itertools.count()
        if kind == "yielded":
            self.yielded = (number for number in itertools.count())
        if kind == "cycled":
            self.cycled = itertools.cycle([0.0, 1.0, 2.0])
        Keeper.shared, NUMBER = 0.0, 0.0
        Keeper.listed = []
        Keeper.drawn = torch.Generator().manual_seed(1)
        ITEMS.clear()
        TABLE.clear()
        TENSORS[:] = [torch.zeros(()) for _ in range(1_500 if kind == "long" else 3)]
        SPACE.number = 0.0
        VARIABLE.set(0.0)
        self.nonlocal_number = self._closure()

    def _closure(self) -> Callable[[], float]:
        count = 0.0

        def called() -> float:
            nonlocal count
            count += 1
            return count

        return called

    def take(self, model: nn.Module, batch: Tensor) -> float:
        """Change the state, and return a number of it."""
        return math.sin(float(getattr(self, f"take_{self.kind}")(model, batch)))

    def take_rebound(self, model: nn.Module, batch: Tensor) -> Any:
        self.rebound = self.rebound + 1
        return self.rebound

    def take_written(self, model: nn.Module, batch: Tensor) -> Any:
        self.written += 1
        return self.written[0]

    def take_view(self, model: nn.Module, batch: Tensor) -> Any:
        self.inner[1].add_(1)
        return self.inner[1, 2]

    def take_data(self, model: nn.Module, batch: Tensor) -> Any:
        self.inner.data.add_(1)
        return self.inner[0, 0]

    def take_large(self, model: nn.Module, batch: Tensor) -> Any:
        self.large[5] += 1
        return self.large[5]

    def take_huge(self, model: nn.Module, batch: Tensor) -> Any:
        assert self.huge is not None
        self.huge[5] += 1
        return self.huge[5]

    def take_through_numpy(self, model: nn.Module, batch: Tensor) -> Any:
        self.inner.numpy()[0, 0] += 1
        return self.inner[0, 0]

    def take_double(self, model: nn.Module, batch: Tensor) -> Any:
        self.double += 1
        return self.double[1]

    def take_items(self, model: nn.Module, batch: Tensor) -> Any:
        self.items.append(batch.mean().item())
        return len(self.items)

    def take_nested(self, model: nn.Module, batch: Tensor) -> Any:
        self.nested["a"][0]["b"] += 1
        return self.nested["a"][0]["b"]

    def take_queue(self, model: nn.Module, batch: Tensor) -> Any:
        self.queue.append(self.queue[-1] + 1)
        return self.queue[0][0]

    def take_cache(self, model: nn.Module, batch: Tensor) -> Any:
        if batch.shape not in self.cache:
            self.cache[batch.shape] = torch.rand(())
        return self.cache[batch.shape]

    def take_lazily(self, model: nn.Module, batch: Tensor) -> Any:
        if self.lazily is None:
            self.lazily = []
        self.lazily.append(1.0)
        return len(self.lazily)

    def take_seen(self, model: nn.Module, batch: Tensor) -> Any:
        self.seen.add(len(self.seen))
        return len(self.seen)

    def take_bytes(self, model: nn.Module, batch: Tensor) -> Any:
        self.bytes[0] = (self.bytes[0] + 1) % 256
        return self.bytes[0]

    def take_numbers(self, model: nn.Module, batch: Tensor) -> Any:
        self.numbers[0] += 1
        return self.numbers[0]

    def take_sorted(self, model: nn.Module, batch: Tensor) -> Any:
        self.sorted.move_to_end(next(iter(self.sorted)))
        return next(iter(self.sorted.values()))

    def take_counts(self, model: nn.Module, batch: Tensor) -> Any:
        self.counts["calls"] += 1
        return self.counts["calls"]

    def take_python(self, model: nn.Module, batch: Tensor) -> Any:
        return self.python.random()

    def take_numpy(self, model: nn.Module, batch: Tensor) -> Any:
        return self.numpy.random()

    def take_legacy(self, model: nn.Module, batch: Tensor) -> Any:
        return self.legacy.rand()

    def take_torch(self, model: nn.Module, batch: Tensor) -> Any:
        return torch.rand((), generator=self.torch)

    def take_slotted(self, model: nn.Module, batch: Tensor) -> Any:
        return torch.rand((), generator=self.slotted.generator)

    def take_slot(self, model: nn.Module, batch: Tensor) -> Any:
        self.slotted.number += 1
        return self.slotted.number

    def take_drawn(self, model: nn.Module, batch: Tensor) -> Any:
        return torch.rand((), generator=Keeper.drawn)

    def take_shared(self, model: nn.Module, batch: Tensor) -> Any:
        Keeper.shared += 1
        return Keeper.shared

    def take_listed(self, model: nn.Module, batch: Tensor) -> Any:
        type(self).listed.append(1.0)
        return len(self.listed)

    def take_items_of_module(self, model: nn.Module, batch: Tensor) -> Any:
        ITEMS.append(1.0)
        return len(ITEMS)

    def take_table(self, model: nn.Module, batch: Tensor) -> Any:
        TABLE["calls"] = TABLE.get("calls", 0.0) + 1
        return TABLE["calls"]

    def take_number(self, model: nn.Module, batch: Tensor) -> Any:
        global NUMBER  # noqa: PLW0603
        NUMBER += 1
        return NUMBER

    def take_space(self, model: nn.Module, batch: Tensor) -> Any:
        SPACE.number += 1
        return SPACE.number

    def take_long(self, model: nn.Module, batch: Tensor) -> Any:
        TENSORS[len(TENSORS) // 2].add_(1)
        return TENSORS[len(TENSORS) // 2]

    def take_tensors(self, model: nn.Module, batch: Tensor) -> Any:
        TENSORS.append(TENSORS[-1] + 1)
        return TENSORS[-1]

    def take_variable(self, model: nn.Module, batch: Tensor) -> Any:
        VARIABLE.set(VARIABLE.get() + 1)
        return VARIABLE.get()

    def take_statistics(self, model: nn.Module, batch: Tensor) -> Any:
        self.statistics.mean = 0.9 * self.statistics.mean + 0.1 * batch.mean().item()
        self.statistics.history.append(self.statistics.mean)
        return 10 * self.statistics.mean + len(self.statistics.history)

    def take_frozen(self, model: nn.Module, batch: Tensor) -> Any:
        with torch.no_grad():
            for one, other in zip(
                self.frozen.parameters(), model.parameters(), strict=False
            ):  # a key encoder
                one.mul_(0.9).add_(other.mean())
        return self.frozen.weight.sum()

    def take_encoder(self, model: nn.Module, batch: Tensor) -> Any:
        key: nn.Module = model.encoder  # type: ignore[assignment]
        for one, other in zip(key.parameters(), model.head.parameters(), strict=True):  # type: ignore[operator, union-attr]
            one.data = one.data * 0.9 + other.detach() * 0.1
        return sum(one.sum() for one in key.parameters())

    def take_scaler(self, model: nn.Module, batch: Tensor) -> Any:
        self.scaler.scale *= 1.1
        return self.scaler.scale

    def take_function(self, model: nn.Module, batch: Tensor) -> Any:
        now = self.function()
        self.function = lambda: now + 1
        return now

    def take_nonlocal(self, model: nn.Module, batch: Tensor) -> Any:
        return self.nonlocal_number()

    def take_set_attribute(self, model: nn.Module, batch: Tensor) -> Any:
        name = "_".join(("late", "number"))
        setattr(self, name, getattr(self, name, 0.0) + 1)
        return getattr(self, name)

    def take_on_layer(self, model: nn.Module, batch: Tensor) -> Any:
        model.head.calls = getattr(model.head, "calls", 0.0) + 1  # type: ignore[assignment, operator, union-attr]
        return model.head.calls  # type: ignore[union-attr]

    def take_mode(self, model: nn.Module, batch: Tensor) -> Any:
        model.eval()
        return 1.0

    def take_dtype(self, model: nn.Module, batch: Tensor) -> Any:
        is_single = torch.get_default_dtype() is torch.float32
        torch.set_default_dtype(torch.float64 if is_single else torch.float32)
        return 1.0 + is_single

    def take_parameters(self, model: nn.Module, batch: Tensor) -> Any:
        with torch.no_grad():
            model.head.weight.data.mul_(0.99)  # type: ignore[operator, union-attr]
        return 1.0

    def take_clipped(self, model: nn.Module, batch: Tensor) -> Any:
        for one in model.parameters():
            one.data.clamp_(-0.3, 0.3)
        return 1.0

    def take_depth(self, model: nn.Module, batch: Tensor) -> Any:
        self.depth = getattr(self, "depth", 0) + 1
        return np.random.rand() < self.depth / 20  # noqa: NPY002

    def take_hook(self, model: nn.Module, batch: Tensor) -> Any:
        model.head.register_forward_hook(lambda module, given, output: output * 1.01)  # type: ignore[operator, union-attr]
        return 1.0

    def take_counter(self, model: nn.Module, batch: Tensor) -> Any:
        return next(self.counter)

    def take_yielded(self, model: nn.Module, batch: Tensor) -> Any:
        return next(self.yielded)

    def take_cycled(self, model: nn.Module, batch: Tensor) -> Any:
        return next(self.cycled)


KINDS = sorted(name[5:] for name in vars(Keeper) if name.startswith("take_"))
# What a sentence calls the state, where that is not the name of the kind.
NAMES = {
    "clipped": "model.",
    "data": "inner",
    "depth": "depth",
    "dtype": "torch",
    "encoder": "model.encoder",
    "hook": "model.head",
    "items_of_module": "ITEMS",
    "long": "TENSORS",
    "mode": "model",
    "nonlocal": "nonlocal_number",
    "number": "NUMBER",
    "on_layer": "model.head",
    "parameters": "model.head",
    "set_attribute": "late_number",
    "slot": "slotted",
    "space": "SPACE",
    "table": "TABLE",
    "tensors": "TENSORS",
    "through_numpy": "inner",
    "variable": "VARIABLE",
    "view": "inner",
}
WHERE = ("forward", "loss", "hook", "backward", "closure of the loss")
GAUGES = (
    "noise",
    "batch_sharpness",
    "curvature_along_gradient",
    "noise,batch_sharpness",
    "temperature",
    "step_drift",
    "loss_change",
)
# Gauges whose theory is that of SGD.
OF_SGD = ("batch_sharpness", "temperature")
REQUESTS = ("none", "none", "fork", "fork at", "sharpness", "certify", "incident", "trials")
WAYS = ("two lines", "loss", "loss", "loss", "micro-batches", "closure", "batches")


class Scaled(torch.autograd.Function):
    """The identity, whose backward uses a state."""

    @staticmethod
    def forward(context: Any, given: Tensor, take: Callable[[], float]) -> Tensor:
        context.take = take
        return given.clone()

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Any:
        return gradients[0] * (1 + 0.1 * context.take()), None


class Net(nn.Module):
    """A small network that uses a keeper's number in its forward, a hook or its backward."""

    def __init__(self, keeper: Keeper, where: str, onset: int) -> None:
        super().__init__()
        self.body = nn.Linear(3, 4)
        self.head = nn.Linear(4, 1)
        self.encoder = nn.Linear(4, 1).requires_grad_(requires_grad=False)
        self.where, self.onset = where, onset
        if where in ("forward", "backward"):
            self.keeper = keeper
        if where == "hook":
            self.body.register_forward_hook(self._hook(keeper))

    def _hook(self, keeper: Keeper) -> Any:
        def hook(module: nn.Module, given: Any, output: Tensor) -> Tensor:
            return output * self._factor(keeper, given[0])

        return hook

    def _factor(self, keeper: Keeper, batch: Tensor) -> float:
        return 1 + 0.1 * keeper.take(self, batch) if Clock.step >= self.onset else 1.0

    def forward(self, batch: Tensor) -> Tensor:
        hidden = self.body(batch.to(self.body.weight.dtype)).tanh()
        if self.where == "forward":
            hidden = hidden * self._factor(self.keeper, batch)
        if self.where == "backward":
            hidden = Scaled.apply(hidden, lambda: self._factor(self.keeper, batch) - 1)
        output: Tensor = self.head(hidden)
        return output


@dataclass(frozen=True)
class HostileLoop:
    """One loop.

    Args:
        kind: The kind of state.
        where: Where it is changed.
        onset: The first step at which it changes.
        way: How the loop is watched.
        gauges: What is measured.
        every: Every how many steps.
        request: What is asked for on the way.
        optimizer: The kind of optimizer.
    """

    kind: str
    where: str
    onset: int
    way: str
    gauges: str
    every: int
    request: str
    optimizer: str

    @classmethod
    def draw(cls, draws: random.Random) -> "HostileLoop":
        """A loop at random."""
        return cls(
            draws.choice(KINDS),
            draws.choice(WHERE),
            draws.choice((0, 0, 1, 2, 5, 9)),
            draws.choice(WAYS),
            draws.choice(GAUGES),
            draws.choice((1, 1, 2, 3)),
            draws.choice(REQUESTS),
            draws.choice(("SGD", "SGD", "Adam", "AdamW")),
        )

    def fault(self, folder: Path) -> str:
        """What is wrong with this loop, as text; empty if its bits are the same, or if a sentence
        names the state. A refusal that names another state is wrong with the same bits, too."""
        plain, _ = self._trained(None)
        try:
            ends, sentences = self._trained(folder)
        except GradiometerError as error:  # before the first update
            return "" if self._is_named([str(error)]) else f"{self}: refused by {error}"
        refusals = [one for one in sentences if REFUSAL in one]
        if refusals and not self._is_named(refusals):
            return f"{self}: `{self.name}` is not named by {refusals}"
        if all(map(torch.equal, plain, ends)) or self._is_named(sentences):
            return ""
        return f"{self}: other bits, with {sentences}"

    @property
    def name(self) -> str:
        """What a sentence has to call the state."""
        return NAMES.get(self.kind, self.kind)

    def _is_named(self, sentences: list[str]) -> bool:
        """True if each sentence that refuses to run the loss names the state, and one does."""
        states = [one.partition(REFUSAL)[2].split("`")[1] for one in sentences if REFUSAL in one]
        return bool(states) and all(self.name in one for one in states)

    def _loss(self, keeper: Keeper) -> Callable[[nn.Module, Tensor], Tensor]:
        if self.where == "closure of the loss":
            return lambda model, batch: (
                model(batch).square().mean()
                * (1 + 0.1 * keeper.take(model, batch) if Clock.step >= self.onset else 1.0)
            )

        def loss(model: nn.Module, batch: Tensor) -> Tensor:
            value = (model(batch) - batch[:, :1]).square().mean()
            if self.where == "loss" and Clock.step >= self.onset:
                value = value * (1 + 0.1 * keeper.take(model, batch))
            return value

        return loss

    def _trained(self, folder: Path | None) -> tuple[list[Tensor], list[str]]:
        """The parameters and the random state after the loop, and what was said."""
        torch.set_default_dtype(torch.float32)
        torch.manual_seed(3)
        np.random.seed(3)  # noqa: NPY002
        Clock.step = 0
        keeper = Keeper(self.kind)
        model = Net(keeper, self.where, self.onset)
        loss = self._loss(keeper)
        settings: dict[str, Any] = {"momentum": 0.9} if self.optimizer == "SGD" else {}
        optimizer = getattr(torch.optim, self.optimizer)(model.parameters(), lr=0.05, **settings)
        draws = torch.Generator().manual_seed(1)
        data = torch.randn(64, 3, generator=draws)
        try:
            said = self._loop(model, optimizer, loss, data, draws, folder)
        finally:
            torch.set_default_dtype(torch.float32)
        numbers = [one.detach().clone() for one in model.parameters()]
        # not the state of `random`: checkers of types draw from it
        return [*numbers, torch.get_rng_state(), torch.tensor(np.random.rand())], said  # noqa: NPY002

    def _watch(self, model: nn.Module, optimizer: Any, loss: Any, folder: Path) -> Any:
        asked: dict[str, Any] = {"out": folder, "page": False, "quiet": True}
        if self.way == "two lines":
            return watch(model, optimizer, checkpoints=3 * (self.request != "none"), **asked)
        if self.way == "micro-batches":
            asked["accumulation"] = 2
        if self.request in ("fork at", "incident"):
            asked["checkpoints"] = 3
        if self.request == "trials":
            asked["trials"] = 0.5
        if self.optimizer == "SGD" or not any(one in self.gauges for one in OF_SGD):
            asked["gauges"] = self.gauges
        return watch(model, optimizer, loss=loss, every=self.every, **asked)

    def _loop(
        self,
        model: nn.Module,
        optimizer: Any,
        loss: Any,
        data: Tensor,
        draws: torch.Generator,
        folder: Path | None,
    ) -> list[str]:
        said: list[str] = []
        watched = nullcontext() if folder is None else self._watch(model, optimizer, loss, folder)
        parts = 2 if self.way == "micro-batches" else 1
        with watched as w:
            for step in range(STEPS):
                Clock.step = step
                model.train()
                size = 8 - 2 * (step % 3 == 2)
                batches = [data[torch.randint(64, (size,), generator=draws)] for _ in range(parts)]
                if w is not None and self.way == "batches":
                    batches = list(w.batches(batches))

                def backward(batches: list[Tensor] = batches) -> Tensor:
                    optimizer.zero_grad()
                    for batch in batches:
                        if w is not None and self.way == "batches":
                            w.batch(batch)
                        value = loss(model, batch)
                        (value / parts).backward()
                        if w is not None and self.way == "two lines":
                            w.step(value)
                        elif w is not None and self.way != "batches":
                            w.step(value, batch)
                    return value

                if self.way == "closure":
                    optimizer.step(backward)
                else:
                    backward()
                    optimizer.step()
                if w is not None and step in (6, 10):
                    try:
                        self._ask(w, data)
                    except GradiometerError as error:
                        said.append(str(error))
            if w is not None:
                said += w.findings().warnings
        return said

    def _ask(self, w: Any, data: Tensor) -> None:
        settings: dict[str, Any] = {"batches": data, "batch_size": 8, "horizon": "3 updates"}
        if self.request == "fork":
            w.fork("rate 2x", replicates=2, **settings)
        elif self.request == "fork at":
            w.fork("rate 0.5x", at=4, replicates=2, **settings)
        elif self.request == "sharpness":
            w.sharpness(data, top=1, probes=4)
        elif self.request == "certify":
            w.certify(data, batches=8, batch_size=8)
        elif self.request == "incident":
            w.incident(batches=data, batch_size=8)
