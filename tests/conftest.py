"""The models every law is tested on, the browser, and the settings of every test."""

import gc
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakSet

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.overrides import _len_torch_function_stack

import array_checks  # noqa: F401  # before gradiometer, which it checks
from gradiometer.integrations.watch.record import Announcements
from gradiometer.measurement import Batch, Objective, supervised
from gradiometer.measurement.objective import Loss
from gradiometer.run.clock import Turns

torch.set_num_threads(1)
# the key that signs runs is not the user's own
os.environ["XDG_STATE_HOME"] = tempfile.mkdtemp(prefix="state-")
# The suite starts many processes. Without compiled files, each of them would compile the package
# and the tests again.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
# a shell in the background ignores it, and so would all children
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
CHROMIUM = Path("/usr/bin/chromium")


class TinyTransformer(nn.Module):
    """Next-token prediction over 17 symbols, with tied embeddings and a dictionary for a batch."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.embedding = nn.Embedding(17, 8)
        self.block = nn.TransformerEncoderLayer(8, 2, 16, dropout=dropout, batch_first=True)
        self.head = nn.Linear(8, 17, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.block(self.embedding(tokens)))


@dataclass(frozen=True)
class Case:
    """A model, its loss, and a batch of 12."""

    model: nn.Module
    loss: Loss
    batch: Batch
    fixed: bool

    @property
    def objective(self) -> Objective:
        return Objective(self.model, self.loss)


def mlp() -> Case:
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 5))
    return Case(model, supervised(nn.CrossEntropyLoss(reduction="none")), _labelled(8), fixed=True)


def mlp_with_mean_loss() -> Case:
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 5))
    return Case(model, supervised(nn.CrossEntropyLoss()), _labelled(8), fixed=True)


def frozen_first_layer() -> Case:
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 5))
    model[0].requires_grad_(False)
    return Case(model, supervised(nn.CrossEntropyLoss(reduction="none")), _labelled(8), fixed=True)


def dropout() -> Case:
    model = nn.Sequential(nn.Linear(8, 16), nn.Dropout(0.3), nn.ReLU(), nn.Linear(16, 5))
    return Case(model, supervised(nn.CrossEntropyLoss(reduction="none")), _labelled(8), fixed=False)


def cnn_with_batch_norm_and_dropout() -> Case:
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.Flatten(),
        nn.Linear(4 * 16, 5),
    )
    return Case(
        model, supervised(nn.CrossEntropyLoss(reduction="none")), _labelled(1, 6, 6), fixed=False
    )


def cnn_with_batch_norm() -> Case:
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 16, 5)
    )
    return Case(
        model, supervised(nn.CrossEntropyLoss(reduction="none")), _labelled(1, 6, 6), fixed=False
    )


def weighted_mean() -> Case:
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 5))
    criterion = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 3.0, 4.0, 50.0]))
    return Case(model, supervised(criterion), _labelled(8), fixed=False)


def tiny_transformer() -> Case:
    def loss(model: nn.Module, batch: Batch) -> Tensor:
        logits = model(batch["tokens"][:, :-1])
        return F.cross_entropy(
            logits.transpose(1, 2), batch["tokens"][:, 1:], reduction="none"
        ).mean(1)

    return Case(
        TinyTransformer(),
        loss,
        {"tokens": torch.randint(17, (12, 9)), "note": "a string"},
        fixed=True,
    )


def one_module_twice() -> Case:
    hidden, norm = nn.Linear(8, 8), nn.BatchNorm1d(8)
    model = nn.Sequential(hidden, norm, nn.ReLU(), hidden, norm, nn.Linear(8, 5))
    return Case(model, supervised(nn.CrossEntropyLoss(reduction="none")), _labelled(8), fixed=False)


CASES = {
    case.__name__: case
    for case in (
        mlp,
        mlp_with_mean_loss,
        frozen_first_layer,
        dropout,
        cnn_with_batch_norm,
        cnn_with_batch_norm_and_dropout,
        weighted_mean,
        tiny_transformer,
        one_module_twice,
    )
}


def pytest_collection_finish() -> None:
    """What was imported and collected stays to the end. Each collection of garbage would look at
    its two million objects again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    """Every model in turn, freshly made."""
    torch.manual_seed(0)
    return CASES[request.param]()


@pytest.fixture(autouse=True)
def nothing_stays_in_torch() -> Iterator[None]:
    """What is put in place of functions of torch, to see a loss, is gone after each test."""
    before = nn.Module.__call__, _len_torch_function_stack()
    yield
    assert (nn.Module.__call__, _len_torch_function_stack()) == before


@pytest.fixture(autouse=True)
def no_page_at_the_end(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """`watch` writes no page, which takes a third of a second, except in tests that are marked with
    `page`."""
    if "page" not in request.keywords:
        monkeypatch.setattr(Announcements, "show", lambda self, run: None)


@pytest.fixture(autouse=True)
def nothing_compiled() -> Iterator[None]:
    """A process that has compiled code reads no examples during training's backward, also in later
    tests."""
    yield
    if (dynamo := sys.modules.get("torch._dynamo.utils")) is not None:
        dynamo.counters.clear()


@pytest.fixture(autouse=True)
def no_loop_of_an_earlier_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that never closes its watch leaves a loop which the next ones would take turns with."""
    monkeypatch.setattr(Turns, "several", False)
    monkeypatch.setattr(Turns, "_entered", WeakSet())


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Debian's chromium, driven by Playwright; tests that need it are skipped where one of them is
    missing."""
    playwright_api = pytest.importorskip("playwright.sync_api")
    if not CHROMIUM.exists():
        pytest.skip("needs Debian's chromium")
    quiet = [
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--disable-background-networking",
        "--disable-sync",
    ]
    with playwright_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=str(CHROMIUM), args=quiet)
        yield chromium
        chromium.close()


def _labelled(*shape: int) -> tuple[Tensor, Tensor]:
    return torch.randn(12, *shape), torch.randint(5, (12,))
