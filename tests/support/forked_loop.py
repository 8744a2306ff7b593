"""A loop of one's own that can be forked between two updates, and everything of it that a fork must
not change."""

import pickle
import random
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim import lr_scheduler

from gradiometer import supervised, watch
from gradiometer.loop import Fork, Loop, fork

INPUTS = torch.randn(96, 6, generator=torch.Generator().manual_seed(1))
LABELS = (INPUTS[:, :3].argmax(dim=1) + 1) % 3
ORDER = torch.Generator().manual_seed(2)
BATCHES = [
    (INPUTS[chosen], LABELS[chosen]) for chosen in torch.randint(96, (40, 8), generator=ORDER)
]
CRITERION = supervised(nn.CrossEntropyLoss(reduction="none"))
Seen = dict[str, Any]


def network(*, dropout: float = 0.0) -> nn.Module:
    return nn.Sequential(
        nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(dropout), nn.Linear(16, 3)
    )


def groups(model: nn.Module) -> list[dict[str, Any]]:
    weights = [parameter for parameter in model.parameters() if parameter.dim() > 1]
    rest = [parameter for parameter in model.parameters() if parameter.dim() == 1]
    return [
        {"params": weights, "weight_decay": 0.01},
        {"params": rest, "lr": 0.005, "weight_decay": 0.0},
    ]


OPTIMIZERS: dict[str, Callable[[nn.Module], torch.optim.Optimizer]] = {
    "SGD": lambda model: torch.optim.SGD(groups(model), lr=0.05, momentum=0.9, nesterov=True),
    "AdamW": lambda model: torch.optim.AdamW(groups(model), lr=0.01, foreach=True),
    "fused AdamW": lambda model: torch.optim.AdamW(groups(model), lr=0.01, fused=True),
    "RMSprop": lambda model: torch.optim.RMSprop(groups(model), lr=0.01, momentum=0.5),
    "LBFGS": lambda model: torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=2),
}
SCHEDULERS: dict[str, Callable[[torch.optim.Optimizer], Any]] = {
    "cosine": lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, 30),
    "one cycle": lambda optimizer: lr_scheduler.OneCycleLR(
        optimizer, max_lr=[0.05, 0.01], total_steps=40
    ),
    "cyclic": lambda optimizer: lr_scheduler.CyclicLR(optimizer, 0.001, 0.02, step_size_up=3),
    "lambda": lambda optimizer: lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step)),
    "warmup": lambda optimizer: lr_scheduler.LambdaLR(optimizer, lambda step: min(step / 4, 1)),
    "sequence": lambda optimizer: lr_scheduler.SequentialLR(
        optimizer,
        [
            lr_scheduler.LinearLR(optimizer, 0.1, total_iters=4),
            lr_scheduler.ExponentialLR(optimizer, 0.9),
        ],
        milestones=[4],
    ),
    "chained": lambda optimizer: lr_scheduler.ChainedScheduler(
        [lr_scheduler.ConstantLR(optimizer, 0.5, 6), lr_scheduler.StepLR(optimizer, 3)]
    ),
}


OF_LOOP = (
    "loss",
    "step",
    "batches",
    "batch_size",
    "evaluate",
    "scheduler",
    "scheduler_each",
    "scaler",
    "accumulation",
    "left",
    "index",
)


def fork_by(model: nn.Module, optimizer: torch.optim.Optimizer, **settings: Any) -> Fork:
    """A fork of a loop of one's own, with the settings of both."""
    own = {name: settings.pop(name) for name in OF_LOOP if name in settings}
    return fork(Loop(model, optimizer, **own), **settings)


class OwnLoop:
    """A training: its parts, and one update at a time."""

    def __init__(
        self,
        optimizer: str = "SGD",
        scheduler: str | None = None,
        *,
        dropout: float = 0.0,
        accumulation: int = 1,
        scaled: bool = False,
        wrapped: Callable[[nn.Module], nn.Module] = lambda model: model,
    ) -> None:
        torch.manual_seed(0)
        random.seed(0)
        np.random.seed(0)  # noqa: NPY002
        self.model = wrapped(network(dropout=dropout))
        self.optimizer = OPTIMIZERS[optimizer](self.model)
        self.scheduler = None if scheduler is None else SCHEDULERS[scheduler](self.optimizer)
        self.scaler = (
            torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=3) if scaled else None
        )
        self.accumulation, self.steps = accumulation, 0
        self.losses: list[float] = []

    def loss(self, model: nn.Module, batch: Any) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16) if self.scaler is not None else nullcontext():
            return CRITERION(model, batch)

    def closure(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, batch: Any
    ) -> torch.Tensor:
        """One update with a closure, as LBFGS needs it."""

        def again() -> torch.Tensor:
            optimizer.zero_grad()
            loss = CRITERION(model, batch).mean()
            loss.backward()
            return loss

        return optimizer.step(again)  # type: ignore[arg-type,return-value]

    def update(self, watched: Any = None) -> None:
        batches = [
            BATCHES[(self.steps * self.accumulation + place) % 40]
            for place in range(self.accumulation)
        ]
        if isinstance(self.optimizer, torch.optim.LBFGS):
            self.losses.append(self.closure(self.model, self.optimizer, batches[0]).item())
        else:
            self.optimizer.zero_grad()
            for batch in batches:
                loss = self.loss(self.model, batch).mean()
                part = loss / self.accumulation
                (part if self.scaler is None else self.scaler.scale(part)).backward()
                self.losses.append(loss.item())
                if watched is not None:
                    watched.step(loss, batch)
            if self.scaler is None:
                self.optimizer.step()
            else:
                self.scaler.step(self.optimizer)
                self.scaler.update()
        if self.scheduler is not None:
            self.scheduler.step()
        self.steps += 1

    def fork(self, **given: Any) -> Fork:
        by_itself = isinstance(self.optimizer, torch.optim.LBFGS)
        rest = BATCHES[self.steps * self.accumulation % 40 :] + BATCHES
        settings: dict[str, Any] = {
            "loss": None if by_itself else self.loss,
            "step": self.closure if by_itself else None,
            "batches": lambda seed: rest,
            "evaluate": everything,
            "alternatives": ["rate 2x", "batch 2x"],
            "horizon": "4 updates",
            "replicates": 1,
            "accumulation": self.accumulation,
            "scheduler": self.scheduler,
            "scaler": self.scaler,
            **given,
        }
        return fork_by(self.model, self.optimizer, **settings)

    def state(self) -> Seen:
        """All that training consists of, as bytes, numbers and identities."""
        tables = [vars(module) for module in self.model.modules()] + [vars(self.optimizer)]
        return {
            "model": pickled(self.model.state_dict()),
            "parameters": [id(parameter) for parameter in self.model.parameters()],
            "gradients": [pickled(parameter.grad) for parameter in self.model.parameters()],
            "optimizer": pickled(self.optimizer.state_dict()),
            "scheduler": None if self.scheduler is None else repr(self.scheduler.state_dict()),
            "scaler": None if self.scaler is None else repr(self.scaler.state_dict()),
            "modes": [module.training for module in self.model.modules()],
            "hooks": [
                (name, [id(hook) for hook in hooks.values()])
                for table in tables
                for name, hooks in table.items()
                if name.endswith("_hooks") and hasattr(hooks, "values")
            ],
            "hooks of parameters": [
                [id(hook) for hook in (parameter._backward_hooks or {}).values()]
                for parameter in self.model.parameters()
            ],
            "torch": pickled(torch.get_rng_state()),
            "numpy": repr(np.random.get_state()),  # noqa: NPY002
            "losses": self.losses,
        }


def everything(model: nn.Module) -> dict[str, Any]:
    """All numbers of a model, as a metric."""
    state = [tensor.detach().flatten().float() for tensor in model.state_dict().values()]
    return {"numbers": torch.cat(state).abs().clamp(max=1e6), "signs": torch.cat(state).sign()}


def pickled(tree: Any) -> bytes:
    """The bits of a tree of tensors."""
    flat = tree.numpy() if isinstance(tree, torch.Tensor) else tree
    if isinstance(flat, dict):
        return pickle.dumps([(repr(key), pickled(value)) for key, value in flat.items()])
    if isinstance(flat, list | tuple):
        return pickle.dumps([pickled(value) for value in flat])
    return pickle.dumps(flat)


def trained(
    loop: OwnLoop,
    forks: Callable[[OwnLoop], Any] | None = None,
    *,
    updates: int = 8,
    **watched: Any,
) -> Seen:
    """The state of a loop at its end, with a fork in its middle."""
    with (
        watch(loop.model, loop.optimizer, loss=loop.loss, **watched)
        if watched
        else nullcontext() as w
    ):
        for step in range(updates):
            if step == updates // 2 and forks is not None:
                before = loop.state()
                forks(loop)
                after = loop.state()
                assert {name for name in before if before[name] != after[name]} == set()
            loop.update(w)
        return loop.state()
