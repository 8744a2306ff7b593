"""The law that more information never makes the answer worse: a loop that gives its loss, its batches
and its loader gets an answer that is at least as right as that of two lines."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from gradiometer import diagnose, watch

INPUTS = torch.randn(960, 20, generator=torch.Generator().manual_seed(0))
LABELS = (INPUTS @ torch.randn(20, 4, generator=torch.Generator().manual_seed(1))).argmax(dim=1)
TEST = INPUTS[640:], LABELS[640:]


def of_pair(model: nn.Module, batch: Any) -> Tensor:
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


class Sick:
    """A healthy training, of which each case below changes one thing."""

    rate = 0.2
    clip = 0.0
    is_cleared = True
    is_shuffled = True
    is_in_eval = False
    epochs = 20

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(20, 48), nn.BatchNorm1d(48), nn.ReLU(), nn.Linear(48, 4))

    def inputs(self) -> Tensor:
        return INPUTS[:640]

    def labels(self) -> Tensor:
        return LABELS[:640]


class NeverCleared(Sick):
    rate, is_cleared = 0.01, False


class Clipped(Sick):
    rate, clip = 0.05, 0.005


class InEval(Sick):
    is_in_eval = True


class RateTooLow(Sick):
    rate = 0.0005


class RateTooHigh(Sick):
    rate = 60.0


class Unshuffled(Sick):
    is_shuffled = False

    def inputs(self) -> Tensor:
        return INPUTS[:640][LABELS[:640].argsort(stable=True)]

    def labels(self) -> Tensor:
        return LABELS[:640].sort(stable=True).values


class SoftmaxTwice(Sick):
    def model(self) -> nn.Module:
        return nn.Sequential(*super().model(), nn.Softmax(dim=1))


class Unscaled(Sick):
    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(20, 48), nn.ReLU(), nn.Linear(48, 4))

    def inputs(self) -> Tensor:
        return 200 * INPUTS[:640] + 300


# What is planted, and the claims that are right about it.
CASES: dict[type[Sick], set[str]] = {
    NeverCleared: {"zero_grad"},
    Clipped: {"clip_small"},
    InEval: {"eval_mode"},
    RateTooLow: {"rate_low"},
    RateTooHigh: {"rate_high", "unstable", "exploding", "dead_relu"},
    Unshuffled: {"unshuffled"},
    SoftmaxTwice: {"softmax_twice"},
    Unscaled: {"unscaled"},
}


def headline(sick: Sick, folder: Path, *, gives: bool) -> str:
    torch.manual_seed(0)
    model = sick.model()
    optimizer = torch.optim.SGD(model.parameters(), lr=sick.rate, momentum=0.9)
    loader: DataLoader[Any] = DataLoader(
        TensorDataset(sick.inputs(), sick.labels()), batch_size=32, shuffle=sick.is_shuffled
    )
    settings: Any = {"loss": of_pair, "sampling": loader} if gives else {}
    with watch(model, optimizer, out=folder, quiet=True, page=False, **settings) as w:
        for _ in range(sick.epochs):
            model.train(not sick.is_in_eval)
            for batch in loader:
                if sick.is_cleared:
                    optimizer.zero_grad()
                loss = of_pair(model, batch)
                loss.backward()
                w.step(loss, *([batch] if gives else []))
                if sick.clip:
                    nn.utils.clip_grad_norm_(model.parameters(), sick.clip)
                optimizer.step()
    led = diagnose(w.run).headline
    assert led is not None
    return led.claim


@pytest.mark.parametrize("kind", CASES, ids=lambda kind: kind.__name__)
def test_with_loss_and_sampling_the_answer_is_at_least_as_right(
    tmp_path: Path, kind: Callable[[], Sick]
) -> None:
    right = CASES[kind]
    two_lines, with_more = (headline(kind(), tmp_path, gives=gives) for gives in (False, True))
    assert with_more in right or two_lines not in right, (two_lines, with_more)


@pytest.mark.slow
def test_two_lines_name_most_of_them(tmp_path: Path) -> None:
    """Otherwise the law above would hold for an instrument that says nothing."""
    named = {
        kind.__name__: headline(kind(), tmp_path, gives=False) in right
        for kind, right in CASES.items()
    }
    assert sum(named.values()) >= len(CASES) - 2, named
