"""`watch` refuses what it cannot measure, and reports losses and parameters that are not finite."""

import copy
import inspect
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gradients_by_hand import LOSSES
from gradiometer import BadArgument, Unsupported, watch
from gradiometer.integrations.watch.observers.losses import value_of
from gradiometer.measurement import supervised
from watched_loop import one_backward, simple


def test_another_loss_than_the_trained_one_is_told(tmp_path: Path) -> None:
    model, _, w = simple(
        tmp_path,
        loss=lambda model, batch: 3 * nn.functional.cross_entropy(model(batch[0]), batch[1]),
    )
    with w:
        w.step(*one_backward(model))
    assert "give `watch` the loss that is trained" in w.run.warnings[0]


def test_an_error_in_the_loop_leaves_a_run_that_says_so(tmp_path: Path) -> None:
    model, _, w = simple(tmp_path)
    with pytest.raises(ZeroDivisionError), w:
        w.step(*one_backward(model))
        1 / 0  # noqa: B018
    assert w.run.status == "interrupted"
    assert w.run.events[-1]["reason"] == "ZeroDivisionError: division by zero"
    assert not any(parameter._backward_hooks for parameter in model.parameters())


class LogOfNothing(nn.Module):
    """Finite only for positive sums."""

    def forward(self, x: Tensor) -> Tensor:
        return x.sum(-1, keepdim=True).log() + x


@pytest.mark.parametrize("accumulation", [1, 2])
def test_the_first_loss_that_is_not_finite_is_told_with_step_layer_and_examples(
    tmp_path: Path, accumulation: int
) -> None:
    model = nn.Sequential(nn.Identity(), LogOfNothing(), nn.Linear(8, 5))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    good, bad = torch.rand(8, 8), torch.rand(8, 8)
    bad[[2, 5]] *= -1
    labels = torch.randint(5, (8,))
    loss = supervised(nn.CrossEntropyLoss(reduction="none"))
    with watch(
        model, optimizer, loss=loss, out=tmp_path, accumulation=accumulation, gauges="noise"
    ) as w:
        for step in range(6):
            optimizer.zero_grad()
            for part in range(accumulation):
                batch = (bad if step == 3 and part == accumulation - 1 else good, labels)
                value = loss(model, batch).mean()
                (value / accumulation).backward()
                if value.isfinite():
                    w.step(value, batch)
                    continue
                with pytest.warns(
                    RuntimeWarning,
                    match=r"at step 3.*first in 1 \(LogOfNothing\), of examples 2, 5",
                ):
                    w.step(value, batch)
            if step != 3:
                optimizer.step()
    which = ", micro-batch 2 of 2" if accumulation == 2 else ""
    told = f"the loss is nan at step 3{which}, for the first time in this run"
    assert any(told in warning for warning in w.run.warnings)
    assert math.isnan(w.run.losses[1][3])


def test_a_loss_that_is_not_finite_without_a_loss_to_run_again_says_what_is_known(
    tmp_path: Path,
) -> None:
    model = nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with watch(model, optimizer, out=tmp_path, quiet=True, page=False) as w:
        inputs = torch.randn(8, 4)
        model(inputs).sum().backward()
        with pytest.warns(
            RuntimeWarning, match="parameters and inputs are finite; give `watch` a `loss` to find"
        ):
            w.step(math.nan, inputs)
        optimizer.step()
    assert w.run is not None and "missing" not in w.run.warnings[0]


def test_a_weight_or_an_input_that_is_not_finite_is_named(tmp_path: Path) -> None:
    for spoil, told in (
        ("weight", "the parameter 2.weight is not finite"),
        ("batch", "in example 1 of the batch"),
    ):
        model, _, w = simple(tmp_path, budget=0.0, every=None)
        batch = (torch.randn(4, 8), torch.randint(5, (4,)))
        with torch.no_grad():
            (model[2].weight if spoil == "weight" else batch[0])[1, 1] = math.inf
        with w, pytest.warns(RuntimeWarning, match=told):
            w.step(nn.functional.cross_entropy(model(batch[0]), batch[1]), batch)


def test_order_of_calls_is_refused_by_name(tmp_path: Path) -> None:
    model, optimizer, w = simple(tmp_path)
    with w, pytest.raises(BadArgument, match="call it after `backward`, before the update"):
        one_backward(model)
        optimizer.step()
    model, optimizer, w = simple(tmp_path)
    other = copy.deepcopy(model)
    with w, pytest.raises(BadArgument, match="no backward of this model was made"):
        w.step(*one_backward(other))
    model, optimizer, w = simple(tmp_path, accumulation=4)
    with w, pytest.raises(BadArgument, match="before it is divided for accumulation"):
        for _ in range(4):
            loss, batch = one_backward(model)
            w.step(loss / 4, batch)


def test_what_cannot_be_watched_is_refused_by_name(tmp_path: Path) -> None:
    model = nn.Linear(8, 5)
    sgd, adam = torch.optim.SGD(model.parameters(), lr=0.1), torch.optim.Adam(model.parameters())
    loss = supervised(nn.CrossEntropyLoss())
    refused: list[tuple[str, Callable[[], Any]]] = [
        (
            "one backward per step shows no spread",
            lambda: watch(model, torch.optim.Rprop(model.parameters()), gauges="noise"),
        ),
        ("`accumulation` must be at least 1", lambda: watch(model, sgd, loss=loss, accumulation=0)),
        (
            "under Adam it is preconditioned_sharpness",
            lambda: watch(model, adam, loss=loss, gauges="batch_sharpness"),
        ),
        (
            "which runs the model: give `loss`, or leave it out",
            lambda: watch(model, sgd, accumulation=2, gauges="noise,step_drift"),
        ),
        ("holds no parameter", lambda: watch(nn.Linear(2, 2), sgd, loss=loss)),
        ("got none", lambda: watch(model, [], loss=loss)),
        ("sparse gradients", lambda: watch(nn.Embedding(3, 2, sparse=True), sgd, loss=loss)),
        ("complex parameter", lambda: watch(nn.Linear(2, 2, dtype=torch.cfloat), sgd, loss=loss)),
        ("no trainable parameters", lambda: watch(nn.ReLU(), sgd, loss=loss)),
        ("`budget`", lambda: watch(model, sgd, loss=loss, budget=math.nan)),
    ]
    for words, call in refused:
        with pytest.raises((BadArgument, Unsupported), match=words):
            call()
    with (
        watch(model, sgd, loss=loss, out=tmp_path, every=1, parts=2) as w,
        pytest.raises(BadArgument, match="`batch_size` is 1, so a step has no spread"),
    ):
        w.step(*one_backward(model, 1))


class Looked(nn.Module):
    """An embedding that no module says is sparse."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(10, 4))

    def forward(self, words: Tensor) -> Tensor:
        return nn.functional.embedding(words, self.table, sparse=True).square().mean(-1)


def test_other_things_that_cannot_be_watched_are_refused_in_words(tmp_path: Path) -> None:
    def refused(model: nn.Module, words: str) -> None:
        with pytest.raises(Unsupported, match=words):
            watch(model, torch.optim.SGD(model.parameters(), lr=0.1), loss=LOSSES)

    refused(nn.Linear(8, 5, device="meta"), "`model` has weight on the meta device")
    refused(nn.LazyLinear(5), "`model` has weight not made yet")
    model, words = Looked(), torch.arange(8)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with watch(model, optimizer, loss=lambda model, words: model(words), out=tmp_path) as w:
        loss = model(words).mean()
        loss.backward()
        with pytest.raises(Unsupported, match="`model` makes a sparse gradient"):
            w.step(loss, words)
    with pytest.raises(BadArgument, match="must be a number or a tensor, got dict"):
        inspect.unwrap(value_of)({"loss": 0.1})


def test_an_evaluation_after_the_end_is_a_warning_that_says_where_to_call_it(
    tmp_path: Path,
) -> None:
    model, optimizer, w = simple(tmp_path)
    with w:
        for _ in range(3):
            optimizer.zero_grad()
            w.step(*one_backward(model))
            optimizer.step()
    w.evaluated(test=0.5)
    (said,) = w.findings().warnings
    assert said == (
        "the evaluation after step 3 was not recorded, because the run has ended: call `evaluated` "
        "inside `with watch(...) as w:`"
    )


def test_an_evaluation_without_numbers_is_refused(tmp_path: Path) -> None:
    _, _, w = simple(tmp_path)
    with w, pytest.raises(BadArgument, match=r"`test` must be a loss .*, got a Tensor"):
        w.evaluated(test=torch.zeros(2, device="meta"))
