"""Every file operation of `watch` after the first update fails, once or from then on: training does
not notice."""

import errno
import logging
from pathlib import Path

import pytest
import torch
from faults import ERRORS, Shim, failing
from torch import Tensor

from gradients_by_hand import LOSSES, backward, batches, network
from gradiometer import Run, watch


def trained(
    out: Path, fails_at: int | None, number: int, *, lasting: bool
) -> tuple[list[Tensor], list[str], Shim]:
    """Six updates, the last five and the end of the watch on a failing disk. Returns parameters,
    warnings and calls."""
    model, optimizer = network()
    with watch(model, optimizer, loss=LOSSES, out=out, every=2, gauges="noise", quiet=True) as w:
        for step, batch in enumerate(batches(6)):
            if step == 1:
                disk = failing(fails_at, number, lasting=lasting)
                shim = disk.__enter__()
            optimizer.zero_grad()
            w.step(backward(model, batch), batch)
            optimizer.step()
            if step == 3:
                w.run  # writes what waits  # noqa: B018
    disk.__exit__(None, None, None)
    return (
        [parameter.detach().clone() for parameter in model.parameters()],
        w.findings().warnings,
        shim,
    )


@pytest.fixture(autouse=True)
def quick_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gradiometer.report.page.page.render", lambda *_: "<p></p>" * 100)


@pytest.mark.slow
@pytest.mark.page
@pytest.mark.parametrize("lasting", [False, True], ids=["once", "from then on"])
def test_training_does_not_notice_a_failing_disk(
    tmp_path: Path, lasting: bool, caplog: pytest.LogCaptureFixture
) -> None:
    plain, _, counted = trained(tmp_path / "plain", None, errno.EIO, lasting=lasting)
    losses = Run.open(tmp_path / "plain" / "loop-1").losses[1].tolist()
    assert len(counted.calls) > 8
    for place, name in enumerate(counted.calls):
        label, out = f"call {place}, {name}", tmp_path / str(place)
        caplog.clear()
        with caplog.at_level(logging.WARNING, "gradiometer"):
            made, warnings, _ = trained(out, place, ERRORS[place % len(ERRORS)], lasting=lasting)
        assert all(map(torch.equal, made, plain)), label
        run = Run.open(out / "loop-1")
        assert all(losses[step] == loss for step, loss in zip(*run.losses, strict=True)), label
        whole = (
            len(run.losses[0]) == 6
            and run.status == "finished"
            and (run.path / "report.html").exists()
        )
        assert whole or caplog.messages, label
        assert set(warnings) <= set(caplog.messages) and not any(
            "gradiometer resume" in text for text in warnings
        ), label
