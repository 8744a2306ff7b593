"""What a loss uses besides its model, generators and other networks, is left as it was by
measuring."""

import functools
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gradiometer import watch
from gradiometer.measurement import Objective


class Critic(nn.Module):
    """A network with batch statistics, and a noise source of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 1)).double()

    def forward(self, points: Tensor) -> Tensor:
        return self.layers(points).flatten()


GLOBAL = torch.Generator()


def by_global(model: nn.Module, batch: Tensor) -> Tensor:
    return (
        (model(batch + torch.randn(batch.shape, generator=GLOBAL, dtype=batch.dtype)))
        .square()
        .mean(1)
    )


class Holder:
    def __init__(self, generator: Any) -> None:
        self.settings = {"noise": [generator]}

    def loss(self, model: nn.Module, batch: Tensor) -> Tensor:
        generator = self.settings["noise"][0]
        noise = torch.tensor(
            [[generator.normalvariate(0, 1) for _ in row] for row in batch], dtype=batch.dtype
        )
        return model(batch + noise).square().mean(1)


def of_numpy(model: nn.Module, batch: Tensor, generator: Any) -> Tensor:
    return (
        model(batch + torch.from_numpy(generator.normal(size=tuple(batch.shape)))).square().mean(1)
    )


def of_closure() -> Callable[..., Tensor]:
    generator = torch.Generator()

    def loss(model: nn.Module, batch: Tensor) -> Tensor:
        return (
            model(batch + torch.randn(batch.shape, generator=generator, dtype=batch.dtype))
            .square()
            .mean(1)
        )

    return loss


LOSSES: dict[str, Callable[[], Callable[..., Tensor]]] = {
    "global": lambda: by_global,
    "closure": of_closure,
    "method": lambda: Holder(random.Random(3)).loss,
    "numpy": lambda: functools.partial(of_numpy, generator=np.random.default_rng(3)),
    "old numpy": lambda: functools.partial(of_numpy, generator=np.random.RandomState(3)),
}


def trained(
    loss: Callable[..., Tensor], out: Path | None, extra: nn.Module | None = None
) -> list[Tensor]:
    GLOBAL.manual_seed(1)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4)).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    w = (
        watch(model, optimizer, loss=loss, out=out, every=1, parts=2, page=False, quiet=True)
        if out
        else None
    )
    if w:
        w.__enter__()
    for batch in torch.randn(
        6, 8, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2)
    ):
        optimizer.zero_grad()
        value = loss(model, batch).mean()
        value.backward()
        if w:
            w.step(value, batch)
        optimizer.step()
    if w:
        w.__exit__(None, None, None)
        assert len(w.run.series("noise")) == 6
    return [*model.state_dict().values(), *(extra.state_dict().values() if extra else ())]


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_with_its_own_generator_is_trained_as_without_measuring(
    tmp_path: Path, name: str
) -> None:
    plain, watched = trained(LOSSES[name](), None), trained(LOSSES[name](), tmp_path)
    assert all(map(torch.equal, plain, watched))


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_with_its_own_generator_is_random(name: str) -> None:
    assert (
        Objective(nn.Linear(4, 4).double(), LOSSES[name]()).traits(torch.ones(8, 4).double()).random
    )


def test_the_batch_statistics_of_another_network_are_left_alone(tmp_path: Path) -> None:
    def adversarial(critic: nn.Module) -> Callable[..., Tensor]:
        return lambda model, batch: -critic(model(batch))

    critics = []
    for _ in range(2):
        torch.manual_seed(5)
        critics.append(Critic())
    plain = trained(adversarial(critics[0]), None, critics[0])
    watched = trained(adversarial(critics[1]), tmp_path, critics[1])
    assert all(map(torch.equal, plain, watched))


def test_a_network_in_a_global_module_object_is_found() -> None:
    objective = Objective(nn.Linear(4, 4), by_global)
    assert objective.surroundings.generators == [GLOBAL] and objective.surroundings.modules == []
