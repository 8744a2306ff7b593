"""Errors that cannot print themselves, or say nothing: what quotes them names their type instead,
and nothing is lost."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gradiometer import BadArgument, NormsWatch, RunDamaged, supervised, watch
from gradiometer.cli.boundary import explain
from gradiometer.errors import ran_out_of_memory
from gradiometer.jobs import Job
from gradiometer.jobs.pool import Here, Ledger
from gradiometer.jobs.processes import Processes
from unprintable import Unprintable

LOSSES = supervised(nn.CrossEntropyLoss(reduction="none"))


def refuse(*_: Any) -> Any:
    raise Unprintable


class Unsendable:
    __reduce__ = refuse


def test_a_command_that_ends_with_one_is_a_bug_and_not_a_second_error() -> None:
    assert explain(Unprintable(), ["report"])[1] == 1
    assert explain(type("Odd", (RuntimeError, Unprintable), {})(), ["report"])[1] == 1


def test_only_an_error_that_says_so_is_one_of_too_little_memory() -> None:
    assert not ran_out_of_memory(Unprintable())
    assert ran_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory"))


@pytest.mark.parametrize(
    "error", [Unprintable, AssertionError, ValueError], ids=lambda error: error.__name__
)
def test_a_loss_that_cannot_be_run_again_is_still_reported_as_not_finite(
    tmp_path: Path, error: type[Exception]
) -> None:
    broken = False

    def losses(model: nn.Module, batch: Any) -> Tensor:
        if broken:
            raise error
        return LOSSES(model, batch)

    torch.manual_seed(0)
    model = nn.Linear(4, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with watch(
        model, optimizer, loss=losses, out=tmp_path, every=1, gauges="noise", page=False, quiet=True
    ) as w:
        for step in range(6):
            batch = torch.randn(8, 4), torch.randint(3, (8,))
            optimizer.zero_grad()
            loss = LOSSES(model, batch).mean() * (math.nan if step == 3 else 1.0)
            loss.backward()
            broken = step == 3
            if broken:
                with pytest.warns(RuntimeWarning, match="the loss is nan at step 3"):
                    w.step(loss, batch)
            else:
                w.step(loss, batch)
            optimizer.step()
    assert w.steps == 6
    (warning,) = [text for text in w.run.warnings if "the loss is nan at step 3" in text]
    assert (
        "could not be run again to find the layer (`loss` failed" in warning
        and error.__name__ in warning
    )


@pytest.mark.parametrize("kind", ["watch", "norms"])
def test_training_that_ends_with_one_is_an_interrupted_run_with_a_reason(
    tmp_path: Path, kind: str
) -> None:
    model = nn.Linear(4, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    settings: dict[str, Any] = {"loss": LOSSES, "every": 1, "page": False, "quiet": True}
    w = (
        NormsWatch(out=tmp_path)
        if kind == "norms"
        else watch(model, optimizer, out=tmp_path, **settings)
    )
    with pytest.raises(Unprintable), w:
        if isinstance(w, NormsWatch):
            w.norms(small=4.0, big=2.0, sizes=(8, 32), learning_rate=0.1)
        else:
            batch = torch.randn(8, 4), torch.randint(3, (8,))
            loss = LOSSES(model, batch).mean()
            loss.backward()
            w.step(loss, batch)
            optimizer.step()
        raise Unprintable
    assert w.run is not None and w.run.status == "interrupted"
    (reason,) = [event["reason"] for event in w.run.events if event["event"] == "interrupted"]
    assert reason == "Unprintable"


def test_a_job_that_cannot_be_sent_because_of_one_is_named() -> None:
    with (
        Processes(1) as pool,
        pytest.raises(BadArgument, match=r"the job 'odd', which cannot .*Unprintable; create"),
    ):
        list(pool.run([Job("odd", id, (Unsendable(),))]))


def test_a_ledger_whose_reader_raises_one_is_named(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "finished.jsonl")
    list(Here().run([Job("seven", lambda: 7)], ledger=ledger))
    with pytest.raises(
        RunDamaged, match=r"line 1, is not a finished job of this kind \(Unprintable\)"
    ):
        Ledger(ledger.path, decode=refuse).finished()
