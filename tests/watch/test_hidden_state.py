"""A forward or a loss that keeps state: training has the same bits with `loss=`, or is refused."""

import copy
import itertools
import random
from collections import OrderedDict, deque
from contextlib import nullcontext
from contextvars import ContextVar
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gradiometer import Objective, UserCodeFailed, watch
from gradiometer.measurement.gradient_graph import GradientGraph
from unseen import unseen

ITEMS: list[float] = []
VARIABLE: ContextVar[float] = ContextVar("VARIABLE", default=0.0)


class Net(nn.Module):
    """A linear network whose output is scaled by what earlier calls have left."""

    shared: ClassVar[float] = 0.0
    __slots__ = ("slot",)

    def __init__(self, kind: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.kind = kind
        self.linear = nn.Linear(3, 1)
        self.frozen = nn.Linear(1, 1).requires_grad_(requires_grad=False)
        self.rebound = torch.zeros(())
        self.written = torch.zeros(())
        self.array = np.zeros(1)
        self.items: list[float] = []
        self.queue = deque([0.0], maxlen=2)
        self.cache: dict[str, float] = {}
        self.own = random.Random(0)
        self.slot = torch.Generator().manual_seed(0)
        if kind == "count":
            self.counter = itertools.count()
        if kind == "generator":
            self.numbers = (number for number in range(10_000))
        Net.shared = 0.0
        ITEMS.clear()
        VARIABLE.set(0.0)

    def forward(self, batch: Tensor) -> Tensor:
        return self.linear(batch) * (1 + 0.1 * np.sin(float(getattr(self, f"_{self.kind}")())))

    def _rebound(self) -> Tensor:
        self.rebound = self.rebound + 1
        return self.rebound

    def _written(self) -> Tensor:
        return self.written.add_(1)

    def _data(self) -> Tensor:
        self.frozen.weight.data.add_(1)
        return self.frozen.weight

    def _array(self) -> Any:
        self.array += 1
        return self.array[0]

    def _list(self) -> int:
        self.items.append(1.0)
        return len(self.items)

    def _deque(self) -> float:
        self.queue.append(self.queue[-1] + 1)
        return self.queue[-1]

    def _cache(self) -> float:
        self.cache["calls"] = self.cache.get("calls", 0.0) + 1
        return self.cache["calls"]

    def _random(self) -> float:
        return self.own.random()

    def _slot(self) -> Tensor:
        return torch.rand((), generator=self.slot)

    def _class(self) -> float:
        Net.shared += 1
        return Net.shared

    def _global(self) -> int:
        ITEMS.append(1.0)
        return len(ITEMS)

    def _variable(self) -> float:
        VARIABLE.set(VARIABLE.get() + 1)
        return VARIABLE.get()

    def _mode(self) -> float:
        self.eval()
        return 1.0 if self.linear.training else 2.0

    def _count(self) -> int:
        return next(self.counter)

    def _generator(self) -> int:
        return next(self.numbers)


RESTORED = ["rebound", "written", "data", "array", "list", "deque", "cache", "random", "slot"]
RESTORED += ["class", "global", "variable", "mode"]
REFUSED = {"count": "counter", "generator": "numbers"}


def loss_of(model: nn.Module, batch: Tensor) -> Tensor:
    return model(batch).square().mean()


def trained(kind: str, out: Path | None) -> list[Tensor]:
    """The parameters after 12 updates."""
    model = Net(kind)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    draws = torch.Generator().manual_seed(1)
    settings = {"out": out, "loss": loss_of, "every": 1, "parts": 2}
    with watch(model, optimizer, **settings) if out else nullcontext() as w:
        for _ in range(12):
            batch = torch.randn(8, 3, generator=draws)
            model.train()
            loss = loss_of(model, batch)
            optimizer.zero_grad()
            loss.backward()
            if w is not None:
                w.step(loss, batch)
            optimizer.step()
    return [one.detach().clone() for one in model.parameters()]


@pytest.mark.parametrize("kind", RESTORED)
def test_state_of_a_forward_is_put_back(tmp_path: Path, kind: str) -> None:
    alone = trained(kind, None)
    watched = trained(kind, tmp_path / "run")
    assert all(torch.equal(a, b) for a, b in zip(alone, watched, strict=True))


@pytest.mark.parametrize("kind", REFUSED)
def test_an_iterator_is_refused_by_name(tmp_path: Path, kind: str) -> None:
    with pytest.raises(UserCodeFailed, match=f"model.{REFUSED[kind]}"):
        trained(kind, tmp_path / "run")


class Twice(torch.autograd.Function):
    """The identity, whose backward counts its calls."""

    @staticmethod
    def forward(context: Any, given: Tensor) -> Tensor:
        return given.clone()

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Any:
        ITEMS.append(1.0)
        return gradients[0] * 1


def test_what_the_backward_of_a_product_changes_is_put_back() -> None:
    ITEMS.clear()
    model = nn.Linear(3, 1)
    objective = Objective(model, lambda model, batch: Twice.apply(model(batch)).square().mean())
    graph = GradientGraph(objective, torch.randn(8, 3))
    graph.product([torch.ones(1, 3), torch.ones(1)])
    assert not ITEMS


class Drawing(torch.autograd.Function):
    """The identity, whose backward draws a random number."""

    @staticmethod
    def forward(context: Any, given: Tensor) -> Tensor:
        return given.clone()

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Any:
        return gradients[0] * (1 + torch.rand(()))


def test_random_numbers_of_the_backward_of_a_product_are_not_taken_from_training() -> None:
    model = nn.Linear(3, 1)
    objective = Objective(model, lambda model, batch: Drawing.apply(model(batch)).square().mean())
    graph = GradientGraph(objective, torch.randn(8, 3))
    before = torch.get_rng_state()
    first, second = (graph.product([torch.ones(1, 3), torch.ones(1)]) for _ in range(2))
    assert torch.equal(before, torch.get_rng_state())
    assert all(map(torch.equal, first, second))


def untouched_calls(loss: Any, model: nn.Module, count: int) -> Objective:
    objective = Objective(model, loss)
    for seed in range(count):
        objective.gradient(torch.randn(4, 3), seed=seed)
    return objective


def test_hooks_that_a_call_adds_are_removed_at_every_call() -> None:
    def loss(model: nn.Module, batch: Tensor) -> Tensor:
        model.register_forward_hook(lambda *given: given[-1])
        return loss_of(model, batch)

    model = nn.Linear(3, 1)
    untouched_calls(loss, model, 3)
    assert not model._forward_hooks


def test_an_ordered_dictionary_keeps_its_order() -> None:
    held = OrderedDict(a=1.0, b=2.0, c=3.0)

    def loss(model: nn.Module, batch: Tensor) -> Tensor:
        held.move_to_end("a")
        held.popitem(last=False)
        return loss_of(model, batch)

    untouched_calls(loss, nn.Linear(3, 1), 3)
    assert list(held.items()) == [("a", 1.0), ("b", 2.0), ("c", 3.0)]


def test_a_state_that_begins_between_two_whole_walks_is_put_back() -> None:
    cache: dict[int, list[float]] = {}
    calls = unseen(0)

    def loss(model: nn.Module, batch: Tensor) -> Tensor:
        calls.value += 1
        if calls.value in (6, 7):
            cache.setdefault(0, []).append(1.0)
        return loss_of(model, batch)

    untouched_calls(loss, nn.Linear(3, 1), 7)
    assert calls.value == 7 and not cache


def test_a_long_list_of_tensors_is_compared_by_versions() -> None:
    tensors = [torch.zeros(1) for _ in range(3_000)]

    def appending(model: nn.Module, batch: Tensor) -> Tensor:
        tensors.append(tensors[0])
        return loss_of(model, batch)

    def writing(model: nn.Module, batch: Tensor) -> Tensor:
        tensors[5].add_(1)
        return loss_of(model, batch)

    untouched_calls(appending, nn.Linear(3, 1), 3)
    assert len(tensors) == 3_000
    with pytest.raises(UserCodeFailed, match="`tensors` changes with each call"):
        untouched_calls(writing, nn.Linear(3, 1), 1)


def test_too_many_objects_are_refused_by_name_before_the_first_call() -> None:
    memory = [[number] for number in range(25_000)]
    calls = unseen(0)

    def loss(model: nn.Module, batch: Tensor) -> Tensor:
        calls.value += 1
        return loss_of(model, batch) + len(memory) * 0

    with pytest.raises(UserCodeFailed, match="more than 20,000 objects, most of them in `memory`"):
        untouched_calls(loss, nn.Linear(3, 1), 1)
    assert not calls.value


def test_a_key_encoder_that_follows_in_place_is_put_back_at_every_call() -> None:
    model = nn.Linear(3, 1)
    key = copy.deepcopy(model).requires_grad_(requires_grad=False)
    with torch.no_grad():
        # the first call leaves the bits of the bias, and later ones do not
        model.bias.zero_()
        key.bias.zero_()
    before = key.weight.clone()

    def loss(model: nn.Module, batch: Tensor) -> Tensor:
        with torch.no_grad():
            for one, other in zip(key.parameters(), model.parameters(), strict=True):
                one.mul_(0.9).add_(other, alpha=0.1)
        return (model(batch) - key(batch)).square().mean()

    objective = untouched_calls(loss, model, 2)
    with torch.no_grad():
        model.bias.fill_(1.0)
    for _ in range(7):
        objective.gradient(torch.randn(4, 3))
    assert torch.equal(key.weight, before) and not key.bias.any()


def test_a_parameter_that_a_later_call_writes_is_named() -> None:
    calls = unseen(0)

    def loss(model: nn.Module, batch: Tensor) -> Tensor:
        calls.value += 1
        if calls.value == 3:
            with torch.no_grad():
                for one in model[1].parameters():
                    one.mul_(0.9)
        return loss_of(model, batch)

    with pytest.raises(UserCodeFailed, match=r"`model\.1\.weight` changes with each call"):
        untouched_calls(loss, nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1)), 3)
