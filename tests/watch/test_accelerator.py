"""On an accelerator an unmeasured step waits for nothing, and a measured one once: counted on a
pretended one."""

from collections.abc import Callable
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from gradiometer import Draw, Sampling, Watch, supervised, watch
from gradiometer.integrations.watch.accelerator import Stopwatch
from gradiometer.run.budget import READINGS, Budget
from pretended_accelerator import LOG, Event, Far, Module, Pretended, moved

LOSS = supervised(nn.CrossEntropyLoss(reduction="none"))
SAMPLING = Sampling(Draw.REPLACEMENT, 1000)
STEPS, EVERY = 150, 10


@pytest.fixture(autouse=True)
def accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let torch find the pretended accelerator."""
    real = torch.get_device_module
    monkeypatch.setattr(
        torch,
        "get_device_module",
        lambda at=None: Module if str(at).startswith("lazy") else real(at),
    )
    # where older versions look for it
    monkeypatch.setattr(torch, "lazy", Module, raising=False)
    monkeypatch.setattr(torch, "Event", Event)
    for module in ("sgd", "adam", "adamw"):
        known = import_module(f"torch.optim.{module}")
        monkeypatch.setattr(known, "_device_dtype_check_for_fused", lambda *_: None, raising=False)


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 5))


def images() -> nn.Module:
    layers = (
        nn.Unflatten(1, (3, 2, 2)),
        nn.Conv2d(3, 8, 2),
        nn.PReLU(),
        nn.Flatten(),
        nn.Linear(8, 5),
    )
    return nn.Sequential(*layers).to(memory_format=torch.channels_last)


def without_rules() -> nn.Module:
    return nn.Sequential(nn.Linear(12, 16), nn.PReLU(), nn.Linear(16, 5))


CASES: dict[
    str, tuple[Callable[[], nn.Module], Callable[..., torch.optim.Optimizer], dict[str, Any]]
] = {
    "SGD": (mlp, torch.optim.SGD, {}),
    "halves": (without_rules, torch.optim.SGD, {}),
    "foreach": (mlp, lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, foreach=True), {}),
    "fused": (mlp, lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, fused=True), {}),
    "fused AdamW": (mlp, lambda p: torch.optim.AdamW(p, lr=1e-3, fused=True), {"gauges": "noise"}),
    "AdamW": (mlp, lambda p: torch.optim.AdamW(p, lr=1e-3, foreach=True), {"gauges": "noise"}),
    "preconditioned": (
        mlp,
        lambda p: torch.optim.AdamW(p, lr=1e-3),
        {"gauges": "noise,preconditioned_noise"},
    ),
    "fused, preconditioned": (
        mlp,
        lambda p: torch.optim.AdamW(p, lr=1e-3, fused=True),
        {"gauges": "noise,preconditioned_noise"},
    ),
    "scaled halves": (without_rules, torch.optim.SGD, {}),
    "scaled": (mlp, torch.optim.SGD, {}),
    "accumulated": (mlp, torch.optim.SGD, {"accumulation": 2}),
    "bfloat16": (lambda: mlp().to(torch.bfloat16), torch.optim.SGD, {}),
    "channels_last": (images, torch.optim.SGD, {}),
}


def nothing(_: list[nn.Parameter]) -> None:
    """Leave the gradients as they are."""


def shrink(parameters: list[nn.Parameter]) -> None:
    """Clip by the norm of all parameters."""
    for parameter in parameters:
        parameter.grad = parameter.grad * 0.25


def cut(parameters: list[nn.Parameter]) -> None:
    """Clip by value."""
    for parameter in parameters:
        parameter.grad = parameter.grad.clamp(-1e-3, 1e-3)


class Loop:
    """A training of a model on the pretended accelerator."""

    def __init__(self, name: str, *, far: bool = True) -> None:
        make, kind, self.settings = CASES[name]
        torch.manual_seed(0)
        self.model, self.place = (moved(make()), Far) if far else (make(), torch.clone)
        self.optimizer = kind(self.model.parameters())
        self.scaler = (
            torch.amp.GradScaler("lazy" if far else "cpu", init_scale=8.0)
            if name.startswith("scaled")
            else None
        )
        self.several = self.settings.get("accumulation", 1)

    def unscale(self, _: list[nn.Parameter]) -> None:
        if self.scaler is not None:
            self.scaler.unscale_(self.optimizer)

    def update(
        self, w: Watch | None, change: Callable[[list[nn.Parameter]], object] = nothing
    ) -> tuple[int, int]:
        """One update. Returns how often it waits, and how many copies it does not wait for.

        Args:
            w: The watch.
            change: Changes `.grad` before each call of `step`.
        """
        LOG.clear()
        self.optimizer.zero_grad()
        for _ in range(self.several):
            inputs = torch.randn(16, 12).to(next(self.model.parameters()).dtype)
            batch = self.place(inputs), self.place(torch.randint(5, (16,)))
            loss = LOSS(self.model, batch).mean()
            (loss / self.several if self.scaler is None else self.scaler.scale(loss)).backward()
            change(list(self.model.parameters()))
            if w is not None:
                w.step(loss, batch)
        if self.scaler is None:
            self.optimizer.step()
        else:
            self.scaler.step(self.optimizer)
            self.scaler.update()
        return len(LOG.waits), len(LOG.copies)


QUICK = ("halves", "scaled", "fused, preconditioned")


@pytest.mark.parametrize(
    "name",
    [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in CASES],
)
def test_only_a_measured_step_waits_and_only_once(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits for its numbers. The losses of unmeasured steps come by one copy for 64 steps, and
    the numbers of a look by one, for which nobody waits. Checks of the first readings wait more
    often."""
    # losses are written four times a second, at other steps of a slow machine
    monkeypatch.setattr("gradiometer.integrations.watch.observers.losses.LOOK_SECONDS", 1000.0)
    with Pretended():
        own = Loop(name).update(None)[0]  # a scaler looks by itself if gradients are finite
        loop = Loop(name)
        settings: dict[str, Any] = {
            "gauges": "noise",
            "sampling": SAMPLING,
            "scaler": loop.scaler,
            **loop.settings,
        }
        with watch(
            loop.model,
            loop.optimizer,
            loss=LOSS,
            out=tmp_path,
            every=EVERY,
            parts=2,
            page=False,
            quiet=True,
            **settings,
        ) as w:
            counts = [loop.update(w) for _ in range(STEPS)]
        assert w.findings().warnings == () and w.run is not None
        assert len(w.run.series("noise")) == STEPS // EVERY and len(w.run.losses[1]) == STEPS
    waits = [each - own for each, _ in counts]
    assert {waits[step] for step in range(STEPS) if step % EVERY} == {0}
    assert {waits[step] for step in range(10 * EVERY, STEPS, EVERY)} == {1}
    looks = [step for step, _ in w.run.signs if step % EVERY]
    assert looks and sum(
        copies for step, (_, copies) in enumerate(counts) if step % EVERY
    ) == 2 + len(looks)


def test_a_loop_that_replays_a_graph_is_measured_outside_of_it_and_keeps_every_loss(
    tmp_path: Path,
) -> None:
    """A replay calls no Python, and writes its loss into the place of the last one."""
    torch.manual_seed(0)
    with Pretended():
        model = moved(mlp())
        optimizer, parameters = (
            torch.optim.SGD(model.parameters(), lr=0.1),
            list(model.parameters()),
        )
        place, losses = Far(torch.zeros(())), []
        with watch(
            model,
            optimizer,
            loss=LOSS,
            out=tmp_path,
            every=EVERY,
            parts=2,
            sampling=SAMPLING,
            page=False,
            quiet=True,
        ) as w:
            for step in range(STEPS):
                batch = Far(torch.randn(16, 12)), Far(torch.randint(5, (16,)))
                assert w.measuring == (step % EVERY == 0)
                optimizer.zero_grad()
                loss = LOSS(model, batch).mean()
                if w.measuring:
                    loss.backward()
                else:
                    for parameter, gradient in zip(
                        parameters, torch.autograd.grad(loss, parameters), strict=True
                    ):
                        parameter.grad = gradient
                losses.append(loss.detach().inner.item())
                place.copy_(loss.detach())
                w.step(place if not w.measuring else loss, batch)
                optimizer.step()
        assert w.findings().warnings == () and w.run is not None
    assert (
        w.run.losses[1].tolist() == pytest.approx(losses)
        and len(w.run.series("noise")) == STEPS // EVERY
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["halves", "scaled halves", "preconditioned"])
def test_readings_are_those_of_a_cpu_whatever_is_done_to_the_gradients(
    tmp_path: Path, name: str
) -> None:
    """`.grad` is clipped, unscaled or clipped by value before `step`, for some steps each. Twice as
    many waits tell that the likely gradient was wrong."""
    found = []
    for far in (False, True):
        with Pretended() if far else nullcontext():
            loop = Loop(name, far=far)
            settings: dict[str, Any] = {
                "gauges": "noise",
                "sampling": SAMPLING,
                "scaler": loop.scaler,
                **loop.settings,
            }
            with watch(
                loop.model,
                loop.optimizer,
                loss=LOSS,
                out=tmp_path / str(far),
                every=2,
                parts=2,
                page=False,
                quiet=True,
                **settings,
            ) as w:
                for step in range(48):
                    loop.update(
                        w, change=(nothing, loop.unscale, shrink, nothing, cut, nothing)[step // 8]
                    )
            assert w.findings().warnings == () and w.run is not None
            found.append(w.run.series(settings["gauges"].split(",")[-1]))
    near, far_away = found
    assert near.steps.tolist() == far_away.steps.tolist() and len(near) >= 23
    for moment, values in near.moments.items():
        assert far_away.moments[moment] == pytest.approx(values, rel=1e-4), moment


def test_the_time_of_training_is_not_charged_to_a_reading_though_nothing_waits_for_its_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Training's work ends at second 5, the reading begins at second 1, and its work takes from
    second 5 to 7."""
    seconds, waits = [0.0], list[str]()

    class Timed:
        """An event of an accelerator that first works for training."""

        def __init__(self, device: str, enable_timing: bool) -> None:
            assert enable_timing

        def record(self, stream: Any = None) -> None:
            self.time = max(seconds[0], 5.0)

        def query(self) -> bool:
            return seconds[0] >= self.time

        def elapsed_time(self, end: "Timed") -> float:
            return 1000 * (end.time - self.time)

    monkeypatch.setattr(torch, "Event", Timed)
    monkeypatch.setattr(Module, "synchronize", lambda *_: waits.append("synchronize"))
    budget = Budget(0.02, clock=lambda: seconds[0])
    stopwatch = Stopwatch(budget)
    budget.start()
    stopwatch.start([torch.device("lazy")])
    seconds[0] = 1.0
    stopwatch.begin()
    with budget.spending(READINGS):
        stopwatch.lap()
        stopwatch.charge()  # nothing is complete yet
        seconds[0] = 7.0
        stopwatch.lap()
    budget.made()
    assert (
        budget.spent == pytest.approx(2.0) and budget.training == pytest.approx(5.0) and not waits
    )


def test_several_accelerators_are_waited_for_and_so_is_one_that_cannot_time_events(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: Any) -> float:
        raise NotImplementedError

    for method, waited in (("record", 3), ("elapsed_time", 3)):
        LOG.clear()
        stopwatch = Stopwatch(budget := Budget(0.02))
        stopwatch.start([torch.device("cpu"), torch.device("lazy", 0), torch.device("lazy", 1)])
        stopwatch.begin()
        assert LOG.waits == ["synchronize"] * 2
        with monkeypatch.context() as patched:
            patched.setattr(Event, method, refuse)
            for _ in range(2 if method == "elapsed_time" else 1):  # it shows at the first reading
                stopwatch.start([torch.device("lazy")])
                stopwatch.begin()
                stopwatch.lap()
        assert LOG.waits == ["synchronize"] * waited and budget.spent == 0
