"""Every call into torch, the model, the loss or the data that `watch` makes after the first update
may raise."""

import inspect
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import gradiometer
from gradients_by_hand import LOSSES, batches, network
from gradiometer import watch
from gradiometer.integrations.watch import Watch
from training_calls import TRAINING

HOME, TORCH = (str(Path(each).parent) for each in (gradiometer.__file__, torch.__file__))
RESTORES = {
    *(
        "__exit__",
        "remove",
        "set_rng_state",
        "set_state",
        "setstate",
        "train",
        "set_grad_enabled",
        "_set_grad_enabled",
    ),
    *("copy_", "_foreach_copy_"),
}
"""Calls that put back what measuring has changed. If torch cannot do that, nobody can."""


class Place(NamedTuple):
    """A call of something that is not ours: where it is made, and of what."""

    caller: CodeType
    line: int
    name: str


class Injected(Exception):
    pass


class Outside:
    """A profile function that lists the calls that our functions make of others, and raises in one
    of them, once."""

    def __init__(self, target: Place | None = None) -> None:
        self.target, self.seen, self.raised = target, dict[Place, None](), False

    def __call__(self, frame: FrameType, event: str, called: Any) -> None:
        if self.raised or event not in ("call", "c_call"):
            return
        caller = frame if event == "c_call" else frame.f_back
        if caller is None or not caller.f_code.co_filename.startswith(HOME):
            return
        if event == "call":
            code = frame.f_code
            name = code.co_qualname if code.co_filename.startswith((__file__, TORCH)) else ""
        else:
            name = called.__name__ if of_torch(called) else ""
        if not name or name.split(".")[-1] in RESTORES or caller.f_code.co_qualname in TRAINING:
            return
        place = Place(caller.f_code, caller.f_lineno, name)
        self.seen[place] = None
        if place == self.target:
            self.raised = True
            raise Injected(name)

    @contextmanager
    def around(self) -> Iterator[None]:
        sys.setprofile(self)
        try:
            yield
        finally:
            sys.setprofile(None)


def of_torch(called: Any) -> bool:
    return "torch" in f"{called.__module__} {type(getattr(called, '__self__', None)).__module__}"


def numbers(*_: Any) -> None:
    """A tracker."""


def adamw(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=0.01)


def momentum(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)


LOOPS: dict[str, dict[str, Any]] = {
    "apart": {
        "of": momentum,
        "loss": LOSSES,
        "gauges": "noise,batch_sharpness,step_drift,trajectory",
        "to": [numbers],
    },
    "halves": {"of": momentum, "loss": LOSSES, "gauges": "noise,temperature", "parts": 0},
    "preconditioned": {"of": adamw, "loss": LOSSES, "gauges": "noise,preconditioned_noise"},
    "accumulated": {"of": adamw, "accumulation": 2, "gauges": "noise,preconditioned_noise"},
    "probe": {"of": momentum, "loss": LOSSES, "gauges": "noise", "probe": batches(1, 64)[0]},
    "seldom": {"of": momentum, "loss": LOSSES, "gauges": "noise", "every": 3, "updates": 9},
    "seldom, accumulated": {
        "of": momentum,
        "accumulation": 2,
        "gauges": "noise",
        "every": 3,
        "updates": 9,
    },
    "dropout": {"of": momentum, "loss": LOSSES, "gauges": "noise,step_drift", "dropout": True},
}


def trained(out: Path, settings: dict[str, Any], outside: Outside) -> tuple[list[Tensor], Watch]:
    """Four updates or more, all but the first and the end of the watch with faults."""
    settings = {"every": 1} | settings
    of, accumulation, updates = (
        settings.pop("of"),
        settings.get("accumulation", 1),
        settings.pop("updates", 4),
    )
    model, _ = network()
    if settings.pop("dropout", False):
        model.insert(2, nn.Dropout(0.3))
    optimizer = of(model)
    ahead = iter(batches(updates * accumulation))

    def update(w: Watch) -> None:
        optimizer.zero_grad()
        for _ in range(accumulation):
            batch = next(ahead)
            loss = LOSSES(model, batch).mean()
            (loss / accumulation).backward()
            w.step(loss, batch)
        optimizer.step()

    torch.manual_seed(3)
    w = watch(model, optimizer, out=out, page=False, quiet=True, **settings)
    w.__enter__()
    update(w)
    with outside.around():
        for _ in range(updates - 1):
            update(w)
        w.__exit__(None, None, None)
    return [*(each.detach().clone() for each in model.parameters()), torch.rand(2)], w


def recorded(w: Watch) -> dict[int, float]:
    """The losses on record, by step."""
    return {} if w.run is None else dict(zip(*map(np.ndarray.tolist, w.run.losses), strict=True))


def assert_survives(tmp_path: Path, loop: str, *, one_in: int) -> None:
    plain, whole = trained(tmp_path / "plain", LOOPS[loop], Outside())
    calls = Outside()
    trained(tmp_path / "list", LOOPS[loop], calls)
    assert len(calls.seen) > 50
    for number, place in enumerate([*calls.seen][::one_in]):
        outside = Outside(place)
        made, w = trained(tmp_path / str(number), LOOPS[loop], outside)
        assert all(map(torch.equal, made, plain)), place
        # what looks at the loss of two lines ends without a word: nobody has asked for it yet
        is_silent = "seen_loss" in place.caller.co_filename
        warned = any("Injected" in text for text in w.findings().warnings)
        assert warned or is_silent or not outside.raised, place
        assert w.steps == whole.steps, place
        assert recorded(w).items() <= recorded(whole).items(), place


@pytest.mark.slow
@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
def test_an_error_in_any_thirtieth_call_of_others_stops_measuring_and_not_training(
    tmp_path: Path, loop: str
) -> None:
    assert_survives(tmp_path, loop, one_in=30)


@pytest.mark.nightly
@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
def test_an_error_in_any_call_of_others_stops_measuring_and_not_training(
    tmp_path: Path, loop: str
) -> None:
    assert_survives(tmp_path, loop, one_in=1)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_step_whose_loss_cannot_be_read_leaves_a_gap_and_the_others_their_steps(
    tmp_path: Path, accumulation: int
) -> None:
    model, optimizer = network()
    w = watch(
        model,
        optimizer,
        out=tmp_path,
        accumulation=accumulation,
        budget=0.0,
        gauges="noise",
        quiet=True,
    )
    given = []
    with w:
        for place, batch in enumerate(batches(9 * accumulation)):
            loss = LOSSES(model, batch).mean()
            (loss / accumulation).backward()
            given.append(loss.item())
            inspect.unwrap(Watch.step)(w, "no loss" if place == 5 * accumulation else loss, batch)
            if place % accumulation == accumulation - 1:
                optimizer.step()
                optimizer.zero_grad()
    means = np.array(given).reshape(9, accumulation).mean(1)
    assert recorded(w) == pytest.approx(
        {step: loss for step, loss in enumerate(means) if step != 5}
    )
    assert not any("nan" in text for text in w.findings().warnings)
