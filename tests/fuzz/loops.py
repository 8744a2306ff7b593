"""What a person's program gives to a watched loop, to forks, to a tuning and to own gauges: some of
it spoiled. No call may raise anything but an error with a name, none at all once training has
begun, and the loop keeps its bits."""

import copy
import os
import random
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import chdir, suppress
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import click
import numpy as np
import spoiled
import torch
from torch import Tensor, nn

from gradiometer import (
    Gauge,
    GradiometerError,
    Issue,
    Loop,
    NormsWatch,
    diagnose,
    fork,
    tune,
    watch,
)
from gradiometer.errors import Unsupported
from gradiometer.jobs import Job, Pool, pool_of
from gradiometer.loop import Custom
from gradiometer.measurement import supervised
from gradiometer.report.page.page import render

INPUTS = torch.randn(96, 4, generator=torch.Generator().manual_seed(0))
LABELS = (INPUTS[:, 0] > 0).long()
LOSS = supervised(nn.CrossEntropyLoss(reduction="none"))
STEPS = 5
OBJECTS: tuple[Any, ...] = (
    *spoiled.NASTY,
    *(nn.Linear(4, 2), LOSS, object(), int, Path("x"), b"\xff", (), (INPUTS, LABELS), [INPUTS]),
    *(torch.tensor(float("nan")), torch.tensor([]), torch.zeros(3, 3), INPUTS[:1], LABELS[:0]),
    *(torch.ones(2, dtype=torch.complex64), torch.zeros(2, device="meta"), np.float64("inf")),
    *(lambda *_: None, lambda *_: torch.tensor(1.0), range(3), {1, 2}, float("nan"), np.zeros(2)),
)
"""Values of any type that a program could give by mistake."""

USUAL: dict[str, tuple[Any, ...]] = {
    "every": (1, 2, None),
    "budget": (0.5, 0.0),
    "trials": (0.0, 0.3),
    "checkpoints": (0, 2),
    "at": (None, 0, 2),
    "gauges": ("noise", ["noise", "trajectory"], "noise,batch_sharpness"),
    "loss": (LOSS,),
    "steps": (STEPS, 100),
    "examples": (96, None),
    "level": (0.9, 0.5),
    "accumulation": (1, 2),
    "parts": (2, 0),
    "replacement": (True, False),
    "seed": (0, 3),
    "horizon": ("1 update", "2 updates", "end"),
    "replicates": (1, 2),
    "tail": ("linear", "none"),
    "batch_size": (8, None),
    "points": (0, 2),
    "alternatives": (["rate 2x"], ["rate 2x", "clip 1"], ["rate 2x & skip 1:2"]),
    "test": (0.5, LOSS(nn.Linear(4, 2), (INPUTS, LABELS)).detach(), (INPUTS, LABELS)),
    "train": (0.5, None, (INPUTS, LABELS)),
    "batches": ((INPUTS, LABELS), [(INPUTS[:8], LABELS[:8])]),
}
"""Arguments that fit, by their name."""


def _given(draw: random.Random, names: tuple[str, ...], most: int = 3) -> dict[str, Any]:
    """Some of these arguments: most of them fit."""
    chosen = draw.sample(names, draw.randint(0, min(most, len(names))))
    return {
        name: draw.choice(USUAL.get(name, OBJECTS) if draw.random() < 0.5 else OBJECTS)
        for name in chosen
    }


def _parts() -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
    return model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def _update(model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> Tensor:
    rows = torch.arange(16 * step, 16 * step + 16) % 96
    optimizer.zero_grad()
    loss = nn.functional.cross_entropy(model(INPUTS[rows]), LABELS[rows])
    loss.backward()
    return loss


def _alone() -> list[Tensor]:
    model, optimizer = _parts()
    for step in range(STEPS):
        _update(model, optimizer, step)
        optimizer.step()
    return [each.detach() for each in model.parameters()]


ALONE = _alone()
"""The parameters of the loop that nobody watches."""


def _request(draw: random.Random, watched: Any, model: nn.Module) -> None:
    """Something that a person asks of a watched loop between two updates."""
    data = draw.choice(USUAL["batches"] if draw.random() < 0.7 else OBJECTS)
    changes = draw.choice(USUAL["alternatives"] if draw.random() < 0.7 else OBJECTS)
    short = {"horizon": "1 update", "replicates": 1}
    names = ("horizon", "replicates", "tail", "seed", "budget", "batch_size", "at")
    settings = _given(draw, names, 2)
    requests: dict[str, Callable[[], object]] = {
        "evaluated": lambda: watched.evaluated(**_given(draw, ("test", "train"))),
        "fork": lambda: watched.fork(batches=data, alternatives=changes, **(short | settings)),
        "incident": lambda: watched.incident(batches=data, **_given(draw, ("batch_size", "index"))),
        "ensemble": lambda: watched.ensemble(data, **_given(draw, ("train", "points"))),
        "snapshot": watched.snapshot,
        "findings": lambda: str(watched.findings()),
        "batch": lambda: watched.batch(draw.choice(OBJECTS)),
        "certify": lambda: watched.certify(data, **_given(draw, ("level", "exact", "seed"))),
        "sharpness": lambda: watched.sharpness(data, **_given(draw, ("seed", "top"))),
        "load": lambda: watched.load_state_dict(spoiled.value(draw, watched.state_dict())),
    }
    requests[draw.choice(list(requests))]()


def watched_loop(draw: random.Random, folder: Path) -> None:
    """A loop of a person: its arguments, its steps, and what is asked of it on the way."""
    names = (*USUAL, "sampling", "scaler", "probe", "groups", "batch_axis", "to", "name", "out",
             "page", "quiet")  # fmt: skip
    watching = tuple(name for name in names if name not in ("horizon", "replicates", "tail", "test",
                     "batch_size", "points", "alternatives", "train", "batches", "at"))  # fmt: skip
    model, optimizer = _parts()
    quiet = {"out": folder / "runs", "page": False, "quiet": True}
    # what is refused at the door says nothing of the steps behind it
    given = quiet | {"loss": LOSS} | (_given(draw, watching) if draw.random() < 0.3 else {})
    if draw.random() < 0.3:
        # states to fork from, and updates to look for an incident in
        given["checkpoints"] = 2
    with watch(model, optimizer, **given) as watched:
        for step in range(STEPS):
            loss: Any = _update(model, optimizer, step)
            batch: Any = (INPUTS[:16], LABELS[:16])
            if draw.random() < 0.3:
                loss = draw.choice(OBJECTS)
            if draw.random() < 0.3:
                batch = draw.choice((None, *OBJECTS))
            before = copy.deepcopy(torch.get_rng_state())
            watched.step(loss, batch)
            if draw.random() < 0.5:
                # the loop goes on after a refusal
                with suppress(GradiometerError):
                    _request(draw, watched, model)
            assert torch.equal(torch.get_rng_state(), before), "random numbers were used"
            optimizer.step()
    check_bits(model)
    if watched.run is not None:
        render(watched.run, diagnose(watched.run))


def check_bits(model: nn.Module) -> None:
    for ours, alone in zip(model.parameters(), ALONE, strict=True):
        assert torch.equal(ours, alone), "the loop has other bits than the one nobody watches"


@dataclass(frozen=True)
class Own(Gauge):
    """A gauge whose three methods answer what they were given."""

    answers: tuple[Any, Any, Any] = (None, None, None)

    name: ClassVar[str] = "own"
    issue: ClassVar[Issue] = Issue.ESTIMATION
    unit: ClassVar[str] = ""
    needs_loss: ClassVar[bool] = False

    def measure(self, step: Any) -> Any:
        return self.answers[0]

    def estimate(self, series: Any, level: float = 0.9) -> Any:
        return self.answers[1]

    def judge(self, estimates: Any, run: Any = None) -> Any:
        return self.answers[2]


def own_gauge(draw: random.Random, folder: Path) -> None:
    """A gauge of a person that answers anything, beside one of ours."""
    moments: Mapping[str, Any] = {"a": draw.choice((1.0, *OBJECTS)), "b": 2.0}
    answers = tuple(draw.choice((moments, {}, *OBJECTS)) for _ in range(3))
    if draw.random() < 0.7:
        answers = ({"a": 1.0}, *answers[1:])
    model, optimizer = _parts()
    with watch(
        model,
        optimizer,
        gauges=[Own(answers), "noise"],  # type: ignore[arg-type]
        loss=LOSS,
        every=1,
        out=folder / "runs",
        page=False,
        quiet=True,
    ) as watched:
        for step in range(STEPS):
            loss = _update(model, optimizer, step)
            watched.step(loss, (INPUTS[:16], LABELS[:16]))
            optimizer.step()
    check_bits(model)
    assert watched.run is not None and len(watched.run.losses[0]) == STEPS
    try:
        render(watched.run, diagnose(watched.run))
    except GradiometerError:
        pass
    else:
        str(watched.findings())


def python_calls(draw: random.Random, folder: Path) -> None:
    """`Loop`, `fork` and `tune`, called from a program."""
    model, optimizer = _parts()
    if draw.random() < 0.3:
        short: dict[str, Any] = {"steps": 4, "optimizer": "sgd", "budget": 0.5}
        names = ("steps", "budget", "batch_size", "optimizer", "momentum", "weight_decay", "clip",
                 "aim", "seed", "pool", "threads", "loss", "batches")  # fmt: skip
        whole = {"loss": LOSS, "batches": (INPUTS, LABELS), "batch_size": 16}
        given = whole | short | _given(draw, names, 2)
        if isinstance(given["steps"], int) and 10**6 < given["steps"] <= 2**53:
            return  # a training of a year is no mistake that could be refused
        tune(model, **given)
        return
    names = ("batches", "batch_size", "loss", "step", "evaluate", "scheduler", "scheduler_each",
             "scaler", "accumulation", "left", "index", "readout_examples")  # fmt: skip
    whole = {"batches": (INPUTS, LABELS), "batch_size": 16, "loss": LOSS}
    loop = Loop(model, optimizer, **(whole | _given(draw, names, 2)))
    short = {"horizon": "1 update", "replicates": 1}
    names = ("horizon", "budget", "replicates", "tail", "seed", "pool", "threads", "out")
    changes = draw.choice(USUAL["alternatives"] if draw.random() < 0.7 else OBJECTS)
    fork(loop, changes, **(short | _given(draw, names, 2)))


@cache
def open_pools() -> tuple[Pool, ...]:
    """A pool of each kind, which stays open: its start takes seconds."""
    pools = [pool_of("processes:1")]
    if find_spec("ray"):
        # Ray would give its processes the lowest priority, with which a busy machine stops them
        os.environ.setdefault("RAY_worker_niceness", "0")
        # its own cluster, which other programs of this machine do not use
        pools.append(import_module("gradiometer.jobs.on_ray").Ray(count=1))
    # the folder of an input is deleted, and a process of Ray begins where it was connected
    warm = []
    with chdir(Path(__file__).parent):
        for pool in pools:
            try:
                assert pool.results([Job("warm", abs, (-1,))]) == [1]
                warm.append(pool)
            except Unsupported as error:  # a cluster takes longer to start than Ray waits
                click.echo(f"a pool is left out: {error}")
                pool.close()
    return tuple(warm)


def pooled_calls(draw: random.Random, folder: Path) -> None:
    """A fork or a job in another process, where one part answers, carries or is anything."""
    pool = draw.choice(open_pools())
    anything = draw.choice((*OBJECTS, threading.Lock(), iter([1]), (each for each in OBJECTS)))
    if draw.random() < 0.2:
        given = draw.choice(((), (anything,)))
        job = Job("one", lambda *_: anything, given)
        pool.results([job], shared=draw.choice((None, anything)))
        return
    spoiled_part = draw.choice(("loss", "evaluate", "batches", "step", "change", "carried"))

    def loss(model: nn.Module, batch: Any) -> Any:
        return anything if spoiled_part == "loss" else LOSS(model, batch)

    def evaluate(model: nn.Module) -> Any:
        return anything if spoiled_part == "evaluate" else {"mine": 0.5}

    def batches(seed: int) -> Iterator[Any]:
        while True:
            yield anything if spoiled_part == "batches" else (INPUTS[:16], LABELS[:16])

    def step(model: nn.Module, optimizer: torch.optim.Optimizer, batch: Any) -> Any:
        optimizer.zero_grad()
        value = loss(model, batch).mean()
        value.backward()
        optimizer.step()
        return anything if spoiled_part == "step" else value

    def change(*_: Any) -> Any:
        return anything

    model, optimizer = _parts()
    own = {"step": step} if spoiled_part == "step" or draw.random() < 0.2 else {"loss": loss}
    data = batches if spoiled_part == "batches" else (INPUTS, LABELS)
    size = {} if spoiled_part == "batches" else {"batch_size": 16}
    loop = Loop(model, optimizer, batches=data, evaluate=evaluate, **size, **own)
    alternatives = [Custom("mine", change), "rate 2x"] if spoiled_part == "change" else ["clip 1"]
    before = [each.detach().clone() for each in model.parameters()]
    try:
        fork(loop, alternatives, horizon="2 updates", replicates=1, pool=pool)
    finally:
        assert all(map(torch.equal, before, model.parameters())), "the fork changed the model"


def given_norms(draw: random.Random, folder: Path) -> None:
    """A training of which only norms are given: its arguments, and the numbers of its steps."""
    names = ("name", "optimizer", "sampling", "level", "to", "page", "quiet")
    given = _given(draw, names, 2) if draw.random() < 0.3 else {}
    # what is drawn comes first, since a page takes half a second
    quiet = {"page": False, "quiet": True} | given | {"out": folder / "runs"}
    layers = draw.random() < 0.3
    with NormsWatch(**quiet) as watched:
        for step in range(12):
            numbers: dict[str, Any] = {
                "small": {"a": [4.0, 5.0], "b": [2.0, 2.5]} if layers else 4.0 + step % 3,
                "big": {"a": 3.0, "b": 1.0} if layers else 2.0,
                "sizes": (16, 128),
                "learning_rate": 0.1,
                "loss": 1 / (step + 1),
                "step": step,
            }
            # what is refused at the first step says nothing of those behind it
            if draw.random() < (0.3 if step else 0.1):
                name = draw.choice([*numbers])
                numbers[name] = draw.choice((*OBJECTS, {"a": draw.choice(OBJECTS)}))
            watched.norms(**numbers)
    if watched.run is not None:
        assert str(watched.findings())
        if draw.random() < 0.1:
            render(watched.run, diagnose(watched.run))
