"""Every kind of work ends with every floating type: no loop waits for a number that the type cannot
show."""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import pytest
import torch
from torch import nn

from command_line import called
from gradiometer import Run, UserCodeFailed, supervised, watch
from gradiometer.drift.lanczos import VectorProduct, eigenvalues
from gradiometer.gauges import GAUGES
from gradiometer.interruption import StopAsked, heed, heeding

TYPES = ("float64", "float32", "float16", "bfloat16")
SECONDS, WAITING = 60, 900
"""Of the processor, and of all time, in which a busy machine computes little. The slowest command
takes 5 s."""

PROBLEM = """
import torch
from torch import nn
from gradiometer import supervised
from gradiometer.problems import Examples, Problem

def made(kind):
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(328, 8, generator=generator).to(kind)
    labels = (inputs[:, 0] > 0).long() + (inputs[:, 1] > 0).long()
    return Problem(
        name="typed",
        model=lambda: nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3)).to(kind),
        loss=supervised(nn.CrossEntropyLoss(reduction="none")),
        train=Examples((inputs[:128], labels[:128])),
        test=Examples((inputs[128:], labels[128:])),
        correct=lambda model, batch: model(batch[0]).argmax(1) == batch[1],
    )

def float64(): return made(torch.float64)
def float32(): return made(torch.float32)
def float16(): return made(torch.float16)
def bfloat16(): return made(torch.bfloat16)
"""


@contextmanager
def limited() -> Iterator[None]:
    def stop(number: int, frame: FrameType | None) -> None:
        raise AssertionError(f"no end after {SECONDS} s")

    timers = (
        (signal.ITIMER_PROF, signal.SIGPROF, SECONDS),
        (signal.ITIMER_REAL, signal.SIGALRM, WAITING),
    )
    before = [signal.signal(number, stop) for _, number, _ in timers]
    for timer, _, seconds in timers:
        signal.setitimer(timer, seconds)
    try:
        yield
    finally:
        for (timer, number, _), handler in zip(timers, before, strict=True):
            signal.setitimer(timer, 0)
            signal.signal(number, handler)


@pytest.fixture(
    scope="module",
    params=[
        pytest.param("float16", marks=pytest.mark.slow),
        pytest.param("bfloat16", marks=pytest.mark.slow),
        pytest.param("float32", marks=pytest.mark.nightly),
        pytest.param("float64", marks=pytest.mark.nightly),
    ],
)
def run(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Path]]:
    """A run of each type, with its checks and all gauges."""
    folder, here = tmp_path_factory.mktemp(request.param), Path.cwd()
    (folder / "typed_problem.py").write_text(PROBLEM)
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    try:
        yield request.param, folder
    finally:
        sys.path.remove(str(folder))
        os.chdir(here)


def test_every_command_ends(run: tuple[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    kind = run[0]
    problem, path = f"typed_problem:{kind}", "runs/typed-1"
    gauges = ",".join(name for name, kind in GAUGES.items() if not kind.needs_preconditioner)
    common = (
        "--steps",
        "60",
        "--snapshots",
        "3",
        "--every",
        "10",
        "--set",
        "checkpoint_at=30",
        "--no-open",
    )
    for arguments in (
        ("train", problem, "--gauges", gauges, "--name", "typed", *common),
        ("train", problem, "--optimizer", "adamw", "--every", "10", "--steps", "20", "--no-open"),
        ("measure", "certificate", path, "--examples", "64", "--batches", "8"),
        ("measure", "sharpness", path, "--examples", "64", "--top", "2", "--probes", "4"),
        ("ensemble", path, "--points", "3"),
        ("fork", path, "--at", "30", "rate 2x", "--horizon", "20 updates", "--replicates", "2"),
        ("measure", "batch", problem, "--steps", "200", "--seconds", "0.1"),
        ("tune", problem, "--steps", "40"),
        ("tune", problem, "--steps", "40", "--optimizer", "sgd"),
        ("fork", path, "rate 2x", "--budget", "2"),
        ("fork", path, "rate 2x", "--at", "30", "--horizon", "end", "--replicates", "2"),
        ("show", path),
    ):
        with limited():
            code, _, error = called(capsys, *arguments)
        assert "Traceback" not in error, (arguments, error)
        if kind == "float16" and arguments == ("tune", problem, "--steps", "40"):
            # AdamW, which races by default, makes no finite update in this type.
            assert code == 2
            assert (
                "`optimizer` AdamW makes a first update that is not finite, in parameters of "
                "torch.float16: no rate can be chosen. Leave it out, or train in a wider type."
            ) in " ".join(error.split())
        else:
            # 4: float16 may diverge at a rate that is fine in the others.
            assert code in (0, 4), (arguments, error)
    warnings = [
        text for text in Run.open(Path(path)).warnings if "not compared with the edge" in text
    ]
    assert not warnings


@pytest.mark.parametrize(
    ("kind", "optimizer"),
    [
        ("float64", torch.optim.SGD),
        ("bfloat16", torch.optim.AdamW),
        pytest.param("float32", torch.optim.AdamW, marks=pytest.mark.slow),
        pytest.param("float16", torch.optim.SGD, marks=pytest.mark.slow),
        pytest.param("float16", torch.optim.AdamW, marks=pytest.mark.slow),
    ],
)
def test_a_watched_loop_and_its_requests_end(
    kind: str, optimizer: type[torch.optim.Optimizer], tmp_path: Path
) -> None:
    dtype = getattr(torch, kind)
    inputs = torch.randn(128, 8, generator=torch.Generator().manual_seed(0)).to(dtype)
    data = inputs, (inputs[:, 0] > 0).long()
    loss = supervised(nn.CrossEntropyLoss(reduction="none"))
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 2)).to(dtype)
    # the epsilon of Adam's kind is zero in float16
    made = optimizer(
        model.parameters(), lr=0.01, **({} if optimizer is torch.optim.SGD else {"eps": 1e-4})
    )
    quiet = {"out": tmp_path, "page": True, "quiet": True}
    with limited(), watch(model, made, loss=loss, every=5, examples=128, **quiet) as watched:
        for step in range(40):
            rows = torch.arange(16 * step, 16 * step + 16) % 128
            batch = data[0][rows], data[1][rows]
            made.zero_grad()
            value = loss(model, batch).mean()
            value.backward()
            watched.step(value, batch)
            made.step()
            if step in (10, 20, 30):
                watched.snapshot()
        fork = watched.fork(
            batches=data, batch_size=16, alternatives=["rate 2x"], horizon="8 updates", replicates=2
        )
        assert len(fork.results) == 4
        watched.certify(data, batches=8, batch_size=16)
        watched.sharpness(data, top=1, probes=4)
        watched.ensemble(data, points=0)
        assert str(watched.findings())
    assert watched.run is not None and watched.run.steps == 40


@pytest.mark.parametrize("kind", TYPES)
def test_eigenvalues_are_right_within_their_bounds_in_every_type(kind: str) -> None:
    values = torch.linspace(-1, 4, 40).to(getattr(torch, kind))
    operator = VectorProduct(lambda vectors: vectors * values, like=values)
    with limited():
        ends = eigenvalues(
            operator, largest=2, smallest=1, generator=torch.Generator().manual_seed(0)
        )
    assert ends.converged and ends.products <= 41
    for found, true in zip(
        (*ends.largest, *ends.smallest), (values[-1], values[-2], values[0]), strict=True
    ):
        assert found.low <= float(true) <= found.high


def test_a_product_that_is_not_finite_ends_the_loop() -> None:
    operator = VectorProduct(lambda vectors: vectors * float("nan"), like=torch.zeros(30))
    with limited(), pytest.raises(UserCodeFailed, match="has a product that is not finite"):
        eigenvalues(operator, generator=torch.Generator().manual_seed(0))


def test_lanczos_heeds_a_request_between_its_products() -> None:
    made: list[int] = []

    def product(vectors: torch.Tensor) -> torch.Tensor:
        made.append(1)
        return vectors * torch.arange(1000.0)

    operator = VectorProduct(product, like=torch.zeros(1000))
    with heeding(lambda: len(made) >= 3), pytest.raises(StopAsked):
        eigenvalues(operator, tolerance=1e-6, generator=torch.Generator().manual_seed(0))
    assert len(made) == 3
    heed()


SLOW = """
import time
import torch
from torch import nn

def loss(model, batch):
    time.sleep(0.3)
    return ((model(batch) - 1) ** 2).mean(1)

def problem():
    return nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 1)), loss, torch.randn(512, 3)
"""


def test_a_signal_during_the_check_of_the_edge_ends_at_step_0(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    Path("slow_edge.py").write_text(SLOW)
    ended: list[float] = []

    def edge(*given: object, **named: object) -> None:
        ended.append(time.monotonic())
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGTERM)).start()
        time.sleep(0.3)  # as a long product does
        for _ in range(1000):
            heed()
            time.sleep(0.05)

    monkeypatch.setattr("gradiometer.train.training.edge_warning", edge)
    code, _, error = called(capsys, "train", "slow_edge:problem", "--steps", "4", "--no-open")
    assert code == 5 and "stopped at step 0 of 4, nothing is lost" in error
    assert time.monotonic() - ended[0] < 10
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (path,) = Path("runs").iterdir()
    code, _, error = called(capsys, "resume", str(path), "--no-open")
    assert code == 0, error
