"""Evaluations of a watched loop: what is recorded, and what is seen in it."""

from pathlib import Path
from typing import Any

import pytest
import torch

from gradiometer import watch
from gradiometer.errors import BadArgument
from gradiometer.integrations.watch.requests.evaluation import losses_given
from gradiometer.verdict.claims import Claim
from small_classifier import INPUTS, LABELS, STEPS, loss_of, network, sgd


def test_rows_that_are_trained_on_and_evaluated_are_seen(tmp_path: Path) -> None:
    found = {}
    for name, rows in (("leak", INPUTS[:100]), ("held out", torch.randn(100, 8))):
        model = network()
        optimizer = sgd(model)
        with watch(model, optimizer, loss=loss_of, out=tmp_path, page=False, quiet=True) as w:
            for step in range(STEPS):
                optimizer.zero_grad()
                chosen = torch.arange(16) + 16 * (step % 6)
                loss = loss_of(model, (INPUTS[chosen], LABELS[chosen])).mean()
                loss.backward()
                w.step(loss, (INPUTS[chosen], LABELS[chosen]))
                optimizer.step()
                if step % 6 == 5:
                    with torch.no_grad():
                        w.evaluated(
                            test=loss_of(model, (rows, LABELS[:100])),
                            train=loss_of(model, (INPUTS[:96], LABELS[:96])),
                        )
        found[name] = [each.claim for each in w.findings().diagnosis.triage.claims]  # type: ignore[union-attr]
    assert Claim.LEAK in found["leak"] and Claim.LEAK not in found["held out"]


def test_evaluations_are_recorded_with_their_intervals(tmp_path: Path) -> None:
    model = network()
    optimizer = sgd(model)
    with watch(model, optimizer, loss=loss_of, out=tmp_path, page=False, quiet=True) as w:
        w.evaluated(test=1.5)  # before the run exists
        loss = loss_of(model, (INPUTS[:16], LABELS[:16])).mean()
        loss.backward()
        w.step(loss, (INPUTS[:16], LABELS[:16]))
        optimizer.step()
        w.evaluated(test=torch.linspace(0, 2, 100), train=[0.5, 0.6, 0.7, 0.8])
    assert w.run is not None
    first, second = w.run.evaluations
    assert (first["step"], first["estimates"]["test_loss"]["value"]) == (0, 1.5)
    test = second["estimates"]["test_loss"]
    assert (
        test["value"] == pytest.approx(1.0)
        and test["low"] < 1 < test["high"]
        and "train_loss" in second["estimates"]
    )


@pytest.mark.parametrize(
    ("losses", "message"),
    [
        ({}, "`test` and `train` are missing"),
        ({"test": []}, "`test` holds no loss"),
        (
            {"train": [[0.5], [0.5, 0.6]]},
            "`train` must be a loss or the losses of single examples, got a list",
        ),
    ],
)
def test_an_evaluation_that_is_none_is_refused(
    tmp_path: Path, losses: dict[str, Any], message: str
) -> None:
    model = network()
    w = watch(model, sgd(model), loss=loss_of, out=tmp_path, page=False, quiet=True)
    with w, pytest.raises(BadArgument, match=message):
        w.evaluated(**losses)


def test_a_whole_number_beyond_doubles_is_no_loss() -> None:
    with pytest.raises(BadArgument, match="`test` must be a loss or the losses of single examples"):
        losses_given("test", 10**400)
