"""On an accelerator an unmeasured step waits for nothing, and a measured one a few times: counted on a pretended one."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from gradiometer import Draw, Sampling, Watch, supervised, watch
from pretended_accelerator import LOG, Event, Far, Module, Pretended, moved

LOSS = supervised(nn.CrossEntropyLoss(reduction="none"))
SAMPLING = Sampling(Draw.REPLACEMENT, 1000)
STEPS, EVERY = 150, 10
MEASURED = {"halves": 3, "channels_last": 3, "preconditioned": 4, "accumulated": 3, "scaled": 3}
"""Waits at a measured step, where they are not two: for training's own work, and for the norms. The others are for the
norms of `.grad`, for a sample of P, for each of two backwards, and for the factor of the scaler. Checks of the first
readings have more."""


@pytest.fixture(autouse=True)
def accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let torch find the pretended accelerator."""
    real = torch.get_device_module
    monkeypatch.setattr(torch, "get_device_module", lambda at=None: Module if str(at).startswith("lazy") else real(at))
    monkeypatch.setattr(torch, "Event", Event)
    for module in ("sgd", "adam"):
        known = import_module(f"torch.optim.{module}")
        monkeypatch.setattr(known, "_device_dtype_check_for_fused", lambda *_: None)


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 5))


def images() -> nn.Module:
    layers = nn.Unflatten(1, (3, 2, 2)), nn.Conv2d(3, 8, 2), nn.PReLU(), nn.Flatten(), nn.Linear(8, 5)
    return nn.Sequential(*layers).to(memory_format=torch.channels_last)


def without_rules() -> nn.Module:
    return nn.Sequential(nn.Linear(12, 16), nn.PReLU(), nn.Linear(16, 5))


CASES: dict[str, tuple[Callable[[], nn.Module], Callable[..., torch.optim.Optimizer], dict[str, Any]]] = {
    "SGD": (mlp, torch.optim.SGD, {}),
    "halves": (without_rules, torch.optim.SGD, {}),
    "foreach": (mlp, lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, foreach=True), {}),
    "fused": (mlp, lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, fused=True), {}),
    "fused AdamW": (mlp, lambda p: torch.optim.AdamW(p, lr=1e-3, fused=True), {"gauges": "noise"}),
    "AdamW": (mlp, lambda p: torch.optim.AdamW(p, lr=1e-3, foreach=True), {"gauges": "noise"}),
    "preconditioned": (mlp, lambda p: torch.optim.AdamW(p, lr=1e-3), {"gauges": "noise,preconditioned_noise"}),
    "scaled": (mlp, torch.optim.SGD, {}),
    "accumulated": (mlp, torch.optim.SGD, {"accumulation": 2}),
    "bfloat16": (lambda: mlp().to(torch.bfloat16), torch.optim.SGD, {}),
    "channels_last": (images, torch.optim.SGD, {}),
}


class Loop:
    """A training of a model on the pretended accelerator."""

    def __init__(self, name: str) -> None:
        make, kind, self.settings = CASES[name]
        torch.manual_seed(0)
        self.model = moved(make())
        self.optimizer = kind(self.model.parameters())
        self.scaler = torch.amp.GradScaler("lazy", init_scale=8.0) if name == "scaled" else None
        self.several = self.settings.get("accumulation", 1)

    def update(self, w: Watch | None) -> tuple[int, int]:
        """One update. Returns how often it waits, and how many copies it does not wait for."""
        LOG.clear()
        self.optimizer.zero_grad()
        for _ in range(self.several):
            inputs = torch.randn(16, 12).to(next(self.model.parameters()).dtype)
            batch = Far(inputs), Far(torch.randint(5, (16,)))
            loss = LOSS(self.model, batch).mean()
            (loss / self.several if self.scaler is None else self.scaler.scale(loss)).backward()
            if w is not None:
                w.step(loss, batch)
        if self.scaler is None:
            self.optimizer.step()
        else:
            self.scaler.step(self.optimizer)
            self.scaler.update()
        return len(LOG.waits), len(LOG.copies)


QUICK = ("SGD", "halves", "accumulated", "scaled")


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in CASES]
)
def test_only_a_measured_step_waits_once_for_training_and_then_for_its_numbers(tmp_path: Path, name: str) -> None:
    """The losses of unmeasured steps come by one copy for 64 steps, for which nobody waits."""
    with Pretended():
        own = Loop(name).update(None)[0]  # a scaler looks by itself if gradients are finite
        loop = Loop(name)
        settings: dict[str, Any] = {"gauges": "noise", "sampling": SAMPLING, "scaler": loop.scaler, **loop.settings}
        with watch(
            loop.model, loop.optimizer, loss=LOSS, out=tmp_path, every=EVERY, page=False, quiet=True, **settings
        ) as w:
            counts = [loop.update(w) for _ in range(STEPS)]
        assert w.findings().warnings == () and w.run is not None
        assert len(w.run.series("noise")) == STEPS // EVERY and len(w.run.losses[1]) == STEPS
    waits = [each - own for each, _ in counts]
    assert {waits[step] for step in range(STEPS) if step % EVERY} == {0}
    assert {waits[step] for step in range(10 * EVERY, STEPS, EVERY)} == {MEASURED.get(name, 2)}
    assert sum(copies for _, copies in counts) == 2


def test_a_loop_that_replays_a_graph_is_measured_outside_of_it_and_keeps_every_loss(tmp_path: Path) -> None:
    """A replay calls no Python, and writes its loss into the place of the last one."""
    torch.manual_seed(0)
    with Pretended():
        model = moved(mlp())
        optimizer, parameters = torch.optim.SGD(model.parameters(), lr=0.1), list(model.parameters())
        place, losses = Far(torch.zeros(())), []
        with watch(
            model, optimizer, loss=LOSS, out=tmp_path, every=EVERY, sampling=SAMPLING, page=False, quiet=True
        ) as w:
            for step in range(STEPS):
                batch = Far(torch.randn(16, 12)), Far(torch.randint(5, (16,)))
                assert w.measuring == (step % EVERY == 0)
                optimizer.zero_grad()
                loss = LOSS(model, batch).mean()
                if w.measuring:
                    loss.backward()
                else:
                    for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
                        parameter.grad = gradient
                losses.append(loss.detach().inner.item())
                place.copy_(loss.detach())
                w.step(place if not w.measuring else loss, batch)
                optimizer.step()
        assert w.findings().warnings == () and w.run is not None
    assert w.run.losses[1].tolist() == pytest.approx(losses) and len(w.run.series("noise")) == STEPS // EVERY
