"""More loops of many kinds: two losses, data of the model's own, closures, hidden states, schedules
and loaders by hand."""

# ruff: noqa: D102
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from own_loops.plain import BATCH, Script, Step, cross_entropy

REAL = torch.randn(512, 2, generator=torch.Generator().manual_seed(5)) @ torch.tensor(
    [[1.0, 0.8], [0.0, 0.3]]
)

TEXT = torch.randint(0, 12, (4096,), generator=torch.Generator().manual_seed(6)).cumsum(0) % 12
"""Tokens, each of which says something about the next one."""


def adversarial(model: Any, optimizers: Any, batch: Any, step: Step = lambda *_: None) -> Tensor:
    """One update of the critic, then one of the generator."""
    (real,) = batch
    of_generator, of_critic = optimizers
    noise = torch.randn(len(real), 4)
    of_critic.zero_grad()
    made = model["generator"](noise)
    scores = model["critic"](torch.cat([real, made.detach()]))
    wanted = torch.cat([torch.ones(len(real), 1), torch.zeros(len(real), 1)])
    functional.binary_cross_entropy_with_logits(scores, wanted).backward()
    of_critic.step()
    of_generator.zero_grad()
    loss = functional.binary_cross_entropy_with_logits(
        model["critic"](made), torch.ones(len(real), 1)
    )
    loss.backward()
    step(loss, batch)
    of_generator.step()
    return loss


class Adversarial(Script):
    """A generator and a critic, two losses in turn."""

    data = (REAL,)

    def build(self) -> None:
        self.model = nn.ModuleDict(
            {
                "generator": nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2)),
                "critic": nn.Sequential(nn.Linear(2, 16), nn.LeakyReLU(0.2), nn.Linear(16, 1)),
            }
        )
        self.told = {}
        self.asked = {"step": adversarial}
        self.optimizers = [
            torch.optim.Adam(part.parameters(), lr=0.002, betas=(0.5, 0.999))
            for part in self.model.values()  # type: ignore[operator]
        ]

    def update(self, batch: Any, step: Step) -> None:
        adversarial(self.model, self.optimizers, batch, step)

    def score(self, model: Any) -> float:
        made = model["generator"](torch.randn(256, 4, generator=torch.Generator().manual_seed(0)))
        return float((made.T.cov() - REAL.T.cov()).norm() + made.mean(dim=0).norm())


def reinforced(
    model: nn.Module, optimizer: Any, batch: Any, step: Step = lambda *_: None
) -> Tensor:
    """An update along the gradient of the expected reward, from actions that the policy draws."""
    (states,) = batch
    actions = torch.distributions.Categorical(logits=model(states))
    chosen = actions.sample()
    reward = rewards(states, chosen)
    loss = -(actions.log_prob(chosen) * (reward - reward.mean())).mean()
    optimizer.zero_grad()
    loss.backward()
    step(loss, batch)
    optimizer.step()
    return loss


def rewards(states: Tensor, actions: Tensor) -> Tensor:
    angles = torch.atan2(states[:, 1], states[:, 0]) - actions * (math.pi / 2)
    return torch.cos(angles)


class PolicyGradient(Script):
    """The policy draws the actions that it learns from."""

    data = (torch.randn(512, 2, generator=torch.Generator().manual_seed(7)),)

    def build(self) -> None:
        self.model = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 4))
        self.told = {}
        self.asked = {"step": reinforced}
        self.optimizers = [torch.optim.Adam(self.model.parameters(), lr=0.01)]

    def update(self, batch: Any, step: Step) -> None:
        reinforced(self.model, self.optimizers[0], batch, step)

    def score(self, model: nn.Module) -> float:
        states = self.data[0][:128]
        shares = model(states).softmax(dim=1)
        each = torch.stack(
            [rewards(states, torch.full((128,), action)) for action in range(4)], dim=1
        )
        return -float((shares * each).sum(dim=1).mean())


class Recurrent(nn.Module):
    """A model of sequences that gives its hidden state back."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(12, 16)
        self.lstm = nn.LSTM(16, 24)
        self.head = nn.Linear(24, 12)

    def forward(self, tokens: Tensor, hidden: Any = None) -> tuple[Tensor, Any]:
        output, hidden = self.lstm(self.embedding(tokens), hidden)
        return self.head(output).flatten(0, 1), hidden


def from_zero(model: nn.Module, batch: Any) -> Tensor:
    tokens, following = batch
    return functional.cross_entropy(model(tokens.T)[0], following.T.flatten())


class CarriedState(Script):
    """An LSTM whose hidden state goes on from one batch to the next, outside of the model."""

    def build(self) -> None:
        self.model = Recurrent()
        self.told["loss"] = from_zero
        self.hidden: Any = None
        self.optimizers = [torch.optim.SGD(self.model.parameters(), lr=1.0)]

    def batches(self, seed: int) -> Iterator[Any]:
        streams = TEXT.view(8, -1)
        place = seed % 400
        while True:
            yield streams[:, place : place + 16], streams[:, place + 1 : place + 17]
            place = (place + 16) % 480

    def update(self, batch: Any, step: Step) -> None:
        tokens, following = batch
        if self.hidden is not None:
            self.hidden = tuple(one.detach() for one in self.hidden)
        self.optimizers[0].zero_grad()
        output, self.hidden = self.model(tokens.T, self.hidden)
        loss = functional.cross_entropy(output, following.T.flatten())
        loss.backward()
        step(loss, batch)
        nn.utils.clip_grad_norm_(self.model.parameters(), 0.25)
        self.optimizers[0].step()

    def score(self, model: nn.Module) -> float:
        streams = TEXT.view(8, -1)[:, :65]
        return float(from_zero(model, (streams[:, :-1], streams[:, 1:])))


def second_order(
    model: nn.Module, optimizer: Any, batch: Any, step: Step = lambda *_: None
) -> Tensor:
    """An update of an optimizer that calls the loss itself."""

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = cross_entropy(model, batch).mean() + 0.01 * sum(
            one.square().sum() for one in model.parameters()
        )
        loss.backward()
        step(loss, batch)
        return loss

    return optimizer.step(closure)


class Quasinewton(Script):
    """LBFGS with a closure, on large batches."""

    def build(self) -> None:
        self.told = {}
        self.asked = {"step": second_order}
        self.optimizers = [
            torch.optim.LBFGS(self.model.parameters(), lr=0.1, max_iter=3, history_size=5)
        ]

    def batches(self, seed: int) -> Iterator[Any]:
        smaller = super().batches(seed)
        while True:
            parts = [next(smaller) for _ in range(4)]
            yield tuple(torch.cat(tensors) for tensors in zip(*parts, strict=True))

    def update(self, batch: Any, step: Step) -> None:
        second_order(self.model, self.optimizers[0], batch, step)


class Block(nn.Module):
    """A residual block whose forward is a lambda over its own layers."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.mlp = nn.ModuleDict(
            {
                "expand": nn.Linear(width, 2 * width),
                "act": nn.GELU(),
                "project": nn.Linear(2 * width, width),
                "dropout": nn.Dropout(0.1),
            }
        )
        m = self.mlp
        self.forward_mlp = lambda x: m["dropout"](m["project"](m["act"](m["expand"](x))))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.forward_mlp(self.norm(x))


class Lambdas(Script):
    """Blocks keep lambdas, weights are normalized, decay is by group."""

    def build(self) -> None:
        head = torch.nn.utils.parametrizations.spectral_norm(nn.Linear(24, 4))
        self.model = nn.Sequential(nn.Linear(10, 24), Block(24), Block(24), head)
        decayed = [one for one in self.model.parameters() if one.dim() > 1]
        others = [one for one in self.model.parameters() if one.dim() <= 1]
        groups = [
            {"params": decayed, "weight_decay": 0.1},
            {"params": others, "weight_decay": 0.0},
        ]
        self.optimizers = [torch.optim.AdamW(groups, lr=0.005, betas=(0.9, 0.95))]

    def update(self, batch: Any, step: Step) -> None:
        self.model.zero_grad(set_to_none=True)
        loss = cross_entropy(self.model, batch).mean()
        loss.backward()
        step(loss, batch)
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizers[0].step()


def rate_at(step: int) -> float:
    """A warm-up, and a cosine to a tenth."""
    if step < 20:
        return 0.01 * (step + 1) / 20
    return 0.001 + 0.0045 * (1 + math.cos(math.pi * min(step - 20, 140) / 140))


class ByHand(Script):
    """The loop sets the rate before every update, by a function of its own."""

    def build(self) -> None:
        self.asked = {"scheduler": rate_at}
        self.optimizers = [torch.optim.AdamW(self.model.parameters(), lr=0.01)]
        self.made = 0

    def update(self, batch: Any, step: Step) -> None:
        for group in self.optimizers[0].param_groups:
            group["lr"] = rate_at(self.made)
        self.made += 1
        loss = cross_entropy(self.model, batch).mean()
        loss.backward()
        step(loss, batch)
        self.optimizers[0].step()
        self.optimizers[0].zero_grad(set_to_none=True)


class HandMadeLoader(Script):
    """Windows of a text are drawn by the loop; an update adds up two of them."""

    def build(self) -> None:
        self.model = nn.Sequential(
            nn.Embedding(12, 16), nn.Flatten(), nn.Linear(128, 32), nn.ReLU(), nn.Linear(32, 12)
        )
        self.told["accumulation"] = self.parts = 2
        self.optimizers = [torch.optim.AdamW(self.model.parameters(), lr=0.005)]

    def batches(self, seed: int) -> Iterator[Any]:
        drawn = torch.Generator().manual_seed(seed)
        while True:
            starts = torch.randint(len(TEXT) - 9, (BATCH,), generator=drawn)
            windows = torch.stack([TEXT[start : start + 9] for start in starts])
            yield windows[:, :8], windows[:, 8]

    def update(self, batch: Any, step: Step) -> None:
        self.optimizers[0].zero_grad()
        for part in batch:
            loss = cross_entropy(self.model, part).mean()
            (loss / 2).backward()
            step(loss, part)
        self.optimizers[0].step()

    def score(self, model: nn.Module) -> float:
        return float(cross_entropy(model, next(self.batches(99))).mean())


class TwoBackwards(Script):
    """Two backwards for one update, of the loss and of a penalty."""

    def build(self) -> None:
        self.told["loss"] = with_penalty
        self.optimizers = [torch.optim.SGD(self.model.parameters(), lr=0.1, momentum=0.9)]

    def update(self, batch: Any, step: Step) -> None:
        self.optimizers[0].zero_grad()
        loss = cross_entropy(self.model, batch).mean()
        loss.backward(retain_graph=True)
        penalty = penalty_of(self.model)
        penalty.backward()
        step(loss + penalty, batch)
        self.optimizers[0].step()


def penalty_of(model: nn.Module) -> Tensor:
    return 0.01 * torch.stack([one.abs().sum() for one in model.parameters()]).sum()


def with_penalty(model: nn.Module, batch: Any) -> Tensor:
    return cross_entropy(model, batch).mean() + penalty_of(model)
