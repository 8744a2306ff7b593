"""Loops of many kinds, written as public scripts write them, each with the call of `watch` and what
its person would give to a fork."""

# ruff: noqa: D102
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from gradiometer import supervised

BATCH = 32

INPUTS = torch.randn(512, 10, generator=torch.Generator().manual_seed(1))
TEACHER = torch.randn(10, 4, generator=torch.Generator().manual_seed(2))
NOISE = torch.randn(512, 4, generator=torch.Generator().manual_seed(3))
LABELS = (INPUTS @ TEACHER + 2 * NOISE).argmax(dim=1)
TRAIN = INPUTS[:384], LABELS[:384]
HELD_OUT = INPUTS[384:], LABELS[384:]

cross_entropy = supervised(nn.CrossEntropyLoss(reduction="none"))

Step = Callable[[Tensor, Any], object]
"""`w.step` of a watched training, or a function that does nothing."""


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 4))


class Script(ABC):
    """A training as a script has it: `update` is the body of its loop.

    Attributes:
        model: The model.
        optimizers: Its optimizers.
        data: Tensors of training examples.
        told: What a person gives to `watch` besides model and optimizer.
        asked: What a person gives to `fork` besides batches, alternatives, horizon and a metric.
        parts: Number of batches of an update.
    """

    data: tuple[Tensor, ...] = TRAIN

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.told: dict[str, Any] = {"loss": cross_entropy}
        self.asked: dict[str, Any] = {}
        self.parts = 1
        self.optimizers: list[torch.optim.Optimizer] = []
        self.model: nn.Module = network()
        self.build()

    @abstractmethod
    def build(self) -> None:
        """Make the optimizers, and what the loop has besides."""

    @abstractmethod
    def update(self, batch: Any, step: Step) -> None:
        """One update, as the script makes it; `step` is called after the backward."""

    def score(self, model: nn.Module) -> float:
        """What the person compares."""
        return float(cross_entropy(model, HELD_OUT).mean())

    def batches(self, seed: int) -> Iterator[Any]:
        """The batches in the order of a seed."""
        order = torch.Generator().manual_seed(seed)
        while True:
            for chosen in torch.randperm(len(self.data[0]), generator=order).split(BATCH):
                yield tuple(tensor[chosen] for tensor in self.data)

    def updates(self, seed: int) -> Iterator[Any]:
        """What `update` is called with, in the order of a seed."""
        order = self.batches(seed)
        while True:
            yield next(order) if self.parts == 1 else [next(order) for _ in range(self.parts)]

    def multiply(self, factor: float) -> None:
        """Multiply the rate of the coming updates, after the loop has set it."""
        self._factor = factor
        if self._hooked:
            return
        self._hooked = True
        for optimizer in self.stepped:
            optimizer.register_step_pre_hook(lambda made, *_: self._scale(made, up=True))
            optimizer.register_step_post_hook(lambda made, *_: self._scale(made, up=False))

    _factor = 1.0
    _hooked = False
    _kept: tuple[float, ...] = ()

    @property
    def stepped(self) -> list[torch.optim.Optimizer]:
        """The optimizers whose own step moves the parameters."""
        return self.optimizers

    def _scale(self, optimizer: torch.optim.Optimizer, *, up: bool) -> None:
        groups = optimizer.param_groups
        if up:
            self._kept = tuple(group["lr"] for group in groups)
        for group, rate in zip(groups, self._kept, strict=True):
            group["lr"] = rate * self._factor if up else rate


class Clipping(Script):
    """Gradients are clipped to a norm."""

    def build(self) -> None:
        self.optimizers = [torch.optim.AdamW(self.model.parameters(), lr=0.01)]

    def update(self, batch: Any, step: Step) -> None:
        self.optimizers[0].zero_grad()
        loss = cross_entropy(self.model, batch).mean()
        loss.backward()
        step(loss, batch)
        nn.utils.clip_grad_norm_(self.model.parameters(), 0.3)
        self.optimizers[0].step()


class SAM(torch.optim.Optimizer):
    """Sharpness-aware minimisation around another optimizer, as in the code that most people use."""

    def __init__(
        self,
        parameters: Any,
        base: type[torch.optim.Optimizer],
        rho: float = 0.1,
        **settings: Any,
    ) -> None:
        super().__init__(parameters, {"rho": rho, **settings})
        self.base_optimizer = base(self.param_groups, **settings)
        self.param_groups = self.base_optimizer.param_groups

    @torch.no_grad()
    def first_step(self) -> None:
        moved = [one for group in self.param_groups for one in group["params"]]
        norm = torch.norm(torch.stack([one.grad.norm(p=2) for one in moved]), p=2)
        for one in moved:
            self.state[one]["old"] = one.data.clone()
            one.add_(one.grad * (self.param_groups[0]["rho"] / (norm + 1e-12)))
        self.zero_grad()

    @torch.no_grad()
    def second_step(self) -> None:
        for group in self.param_groups:
            for one in group["params"]:
                one.data = self.state[one]["old"]
        self.base_optimizer.step()

    def step(self, closure: Any = None) -> None:
        raise NotImplementedError


class TwoSteps(Script):
    """Every update makes a second backward at other parameters."""

    def build(self) -> None:
        self.optimizers = [SAM(self.model.parameters(), torch.optim.SGD, lr=0.1, momentum=0.9)]

    @property
    def stepped(self) -> list[torch.optim.Optimizer]:
        return [self.optimizers[0].base_optimizer]  # type: ignore[attr-defined]

    def update(self, batch: Any, step: Step) -> None:
        optimizer: Any = self.optimizers[0]
        optimizer.zero_grad()
        loss = cross_entropy(self.model, batch).mean()
        loss.backward()
        step(loss, batch)
        optimizer.first_step()
        cross_entropy(self.model, batch).mean().backward()
        optimizer.second_step()


class Teaching(nn.Module):
    """A student, and a teacher that is the moving average of it."""

    def __init__(self) -> None:
        super().__init__()
        self.student = network()
        self.teacher = network()
        self.teacher.load_state_dict(self.student.state_dict())
        self.teacher.requires_grad_(False)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.student(inputs)


def consistent(model: Any, batch: Any) -> Tensor:
    inputs, labels = batch
    scores = model(inputs)
    taught = model.teacher(inputs).softmax(dim=1)
    return functional.cross_entropy(scores, labels) + functional.mse_loss(
        scores.softmax(dim=1), taught
    )


class MovingAverage(Script):
    """The loss uses a moving average of the weights (mean teacher)."""

    def build(self) -> None:
        self.model = Teaching()
        self.told["loss"] = consistent
        self.optimizers = [torch.optim.Adam(self.model.student.parameters(), lr=0.01)]

    def update(self, batch: Any, step: Step) -> None:
        model: Any = self.model
        self.optimizers[0].zero_grad()
        loss = consistent(model, batch)
        loss.backward()
        step(loss, batch)
        self.optimizers[0].step()
        with torch.no_grad():
            for slow, fast in zip(
                model.teacher.parameters(), model.student.parameters(), strict=True
            ):
                slow.mul_(0.95).add_(fast, alpha=0.05)

    def score(self, model: Any) -> float:
        return float(cross_entropy(model.teacher, HELD_OUT).mean())


class TwoOptimizers(Script):
    """One loss, and an optimizer for matrices beside one for all other parameters."""

    def build(self) -> None:
        matrices = [one for one in self.model.parameters() if one.dim() == 2]
        vectors = [one for one in self.model.parameters() if one.dim() < 2]
        self.optimizers = [
            torch.optim.SGD(matrices, lr=0.1, momentum=0.9),
            torch.optim.AdamW(vectors, lr=0.01),
        ]

    def update(self, batch: Any, step: Step) -> None:
        loss = cross_entropy(self.model, batch).mean()
        loss.backward()
        step(loss, batch)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()


def in_bfloat16(model: nn.Module, batch: Any) -> Tensor:
    inputs, labels = batch
    with torch.autocast("cpu", torch.bfloat16):
        return functional.cross_entropy(model(inputs), labels)


class MixedPrecision(Script):
    """The forward runs in bfloat16 under autocast."""

    def build(self) -> None:
        self.told["loss"] = in_bfloat16
        self.optimizers = [torch.optim.AdamW(self.model.parameters(), lr=0.01)]

    def update(self, batch: Any, step: Step) -> None:
        self.optimizers[0].zero_grad(set_to_none=True)
        loss = in_bfloat16(self.model, batch)
        loss.backward()
        step(loss, batch)
        self.optimizers[0].step()


class Checkpointed(nn.Module):
    """Blocks with dropout whose activations are computed again in the backward."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(10, 32)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(32, 32), nn.GELU(), nn.Dropout(0.1)) for _ in range(2)
        )
        self.last = nn.Linear(32, 4)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.first(inputs)
        for block in self.blocks:
            hidden = hidden + checkpoint(block, hidden, use_reentrant=False)
        return self.last(hidden)


class Checkpointing(Script):
    """Activations are not kept; the rate follows a scheduler at each update."""

    def build(self) -> None:
        self.model = Checkpointed()
        self.optimizers = [torch.optim.AdamW(self.model.parameters(), lr=0.01)]
        self.scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizers[0], 120)

    def update(self, batch: Any, step: Step) -> None:
        self.optimizers[0].zero_grad()
        loss = cross_entropy(self.model, batch).mean()
        loss.backward()
        step(loss, batch)
        self.optimizers[0].step()
        self.scheduler.step()


class Compiled(Script):
    """The model is compiled."""

    def build(self) -> None:
        self.model = torch.compile(self.model)  # type: ignore[assignment]
        self.optimizers = [torch.optim.SGD(self.model.parameters(), lr=0.1, momentum=0.9)]

    def update(self, batch: Any, step: Step) -> None:
        self.optimizers[0].zero_grad()
        loss = cross_entropy(self.model, batch).mean()
        loss.backward()
        step(loss, batch)
        self.optimizers[0].step()


def penalized(model: nn.Module, batch: Any) -> Tensor:
    inputs, labels = batch
    inputs = inputs.detach().requires_grad_()
    loss = functional.cross_entropy(model(inputs), labels)
    (slope,) = torch.autograd.grad(loss, inputs, create_graph=True)
    return loss + 50 * slope.square().sum()


class GradientPenalty(Script):
    """The loss holds the gradient by the inputs."""

    def build(self) -> None:
        self.model = nn.Sequential(nn.Linear(10, 32), nn.Tanh(), nn.Linear(32, 4))
        self.told["loss"] = penalized
        self.optimizers = [torch.optim.Adam(self.model.parameters(), lr=0.01)]

    def update(self, batch: Any, step: Step) -> None:
        self.optimizers[0].zero_grad()
        loss = penalized(self.model, batch)
        loss.backward()
        step(loss, batch)
        self.optimizers[0].step()


def residual(model: nn.Module, batch: Any) -> Tensor:
    """u'' = −π² sin πx on [0, 1], u = 0 at both ends."""
    (points,) = batch
    points = points.detach().requires_grad_()
    value = model(points)
    (slope,) = torch.autograd.grad(value.sum(), points, create_graph=True)
    (bend,) = torch.autograd.grad(slope.sum(), points, create_graph=True)
    inside = (bend + math.pi**2 * torch.sin(math.pi * points)).square().mean()
    return inside + 10 * model(torch.tensor([[0.0], [1.0]])).square().mean()


class PhysicsInformed(Script):
    """The loss is the residual of a differential equation."""

    data = (torch.rand(512, 1, generator=torch.Generator().manual_seed(4)),)

    def build(self) -> None:
        self.model = nn.Sequential(nn.Linear(1, 24), nn.Tanh(), nn.Linear(24, 1))
        self.told["loss"] = residual
        self.optimizers = [torch.optim.Adam(self.model.parameters(), lr=0.005)]
        self.scheduler = torch.optim.lr_scheduler.StepLR(self.optimizers[0], 50, gamma=0.5)

    def update(self, batch: Any, step: Step) -> None:
        self.optimizers[0].zero_grad()
        loss = residual(self.model, batch)
        loss.backward()
        step(loss, batch)
        self.optimizers[0].step()
        self.scheduler.step()

    def score(self, model: nn.Module) -> float:
        grid = torch.linspace(0, 1, 101)[:, None]
        return float((model(grid) - torch.sin(math.pi * grid)).square().mean())


def contrastive(model: nn.Module, batch: Any) -> Tensor:
    """InfoNCE between two noisy views."""
    inputs = batch[0]
    views = [inputs + 0.5 * torch.randn_like(inputs) for _ in range(2)]
    first, second = (functional.normalize(model(view), dim=1) for view in views)
    return functional.cross_entropy(first @ second.T / 0.2, torch.arange(len(inputs)))


class Contrastive(Script):
    """The loss compares the examples of a batch with each other."""

    def build(self) -> None:
        self.model = nn.Sequential(
            nn.Linear(10, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 8)
        )
        self.told["loss"] = contrastive
        self.optimizers = [torch.optim.SGD(self.model.parameters(), lr=0.1, momentum=0.9)]

    def update(self, batch: Any, step: Step) -> None:
        self.optimizers[0].zero_grad()
        loss = contrastive(self.model, batch)
        loss.backward()
        step(loss, batch)
        self.optimizers[0].step()

    def score(self, model: nn.Module) -> float:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return float(contrastive(model, HELD_OUT))
