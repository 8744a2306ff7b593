"""A loop of your own in doubles, with or without `watch`, whose heat balance must close."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from conftest import CASES
from gradiometer import watch
from gradiometer.integrations.watch import Watch
from gradiometer.measurement import Draw, Sampling, supervised
from gradiometer_lab.temperature.thermometer import HeatBalance, heat_balance

SAMPLING = Sampling(Draw.REPLACEMENT, 500)
LOSS = supervised(nn.CrossEntropyLoss(reduction="none"))


@dataclass
class Loop:
    """A loop of one's own, in doubles; what it is asked to do between `backward` and the update is
    done after `step`."""

    out: Path
    momentum: float = 0.0
    nesterov: bool = False
    decay: float = 0.0
    steps: int = 20
    accumulation: int = 1
    clip: float = 0.0
    rates: list[float] = field(default_factory=list)
    watched: dict[str, Any] | None = field(default_factory=dict)
    case: str = "mlp"
    between: Callable[[nn.Module, int], None] = lambda model, step: None
    optimizer: Callable[[nn.Module], torch.optim.Optimizer] | None = None
    closure: bool = False
    early: bool = False
    """Whether it clips before `step` is called."""

    def batches(self) -> Iterator[Any]:
        generator = torch.Generator().manual_seed(2)
        inputs, labels = CASES["mlp"]().batch
        while True:
            chosen = torch.randint(12, (6,), generator=generator)
            yield inputs[chosen].double(), labels[chosen]

    def go(self) -> tuple[nn.Module, Watch | None]:
        torch.manual_seed(0)
        model = CASES[self.case]().model.double()
        made = self.optimizer or (
            lambda model: torch.optim.SGD(
                model.parameters(),
                0.1,
                self.momentum,
                nesterov=self.nesterov,
                weight_decay=self.decay,
            )
        )
        optimizer = made(model)
        settings = {
            "loss": LOSS,
            "out": self.out,
            "every": 1,
            "gauges": "temperature",
            "sampling": SAMPLING,
        }
        if self.watched is None:
            self.through(model, optimizer, None)
            return model, None
        with watch(
            model, optimizer, accumulation=self.accumulation, **(settings | self.watched)
        ) as w:
            self.through(model, optimizer, w)
        return model, w

    def through(self, model: nn.Module, optimizer: torch.optim.Optimizer, w: Watch | None) -> None:
        ahead = self.batches()
        for step in range(self.steps):
            if self.rates:
                optimizer.param_groups[0]["lr"] = self.rates[step]

            def backwards(step: int = step) -> None:
                optimizer.zero_grad()
                for part in range(self.accumulation):
                    batch = next(ahead)
                    loss = LOSS(model, batch).mean()
                    (loss / self.accumulation).backward()
                    if self.early and self.clip and part == self.accumulation - 1:
                        nn.utils.clip_grad_norm_(model.parameters(), self.clip)
                    if w is not None:
                        w.step(loss, batch)
                if self.clip and not self.early:
                    nn.utils.clip_grad_norm_(model.parameters(), self.clip)
                self.between(model, step)

            if self.closure:
                optimizer.step(backwards)
            else:
                backwards()
                optimizer.step()


def balance_of(w: Watch | None, momentum: float = 0.0) -> HeatBalance:
    assert w is not None and w.run is not None and w.run.warnings == [], w.run.warnings
    series = w.run.series("temperature")
    assert series is not None
    return heat_balance(series, momentum=momentum)


def assert_closed(balance: HeatBalance, readings: int = 14) -> None:
    """To 1e-10 of its parts, in the whole and in every layer."""
    size = np.abs(balance.configurational) + np.abs(balance.heat) + np.abs(balance.drift)
    assert len(balance.drift) == readings
    assert (np.abs(balance.residual) < 1e-10 * size.sum(1, keepdims=True)).all()
    assert (np.abs(balance.residual.sum(1)) < 1e-10 * size.sum(1)).all()


def sgd_of(model: nn.Module, **settings: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), **({"lr": 0.1} | settings))
