"""With too little memory left a gauge is left out, with a sentence, and training and the other
gauges continue."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import nn

from gradiometer import Gauge, TrainingStep, Watch, supervised, watch
from gradiometer.measurement import Issue, Moments, gauge

LOSS = supervised(nn.CrossEntropyLoss(reduction="none"))
SIZE = (8 * 5 + 5) * 4
"""Bytes of the parameters."""


def trained(out: Path, gauges: list[str | Gauge]) -> Watch:
    """Twenty steps, all of them measured."""
    torch.manual_seed(0)
    model = nn.Linear(8, 5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with watch(
        model,
        optimizer,
        loss=LOSS,
        out=out,
        gauges=gauges,
        every=1,
        parts=2,
        page=False,
        quiet=True,
    ) as w:
        for _ in range(20):
            optimizer.zero_grad()
            batch = torch.randn(16, 8), torch.randint(5, (16,))
            loss = LOSS(model, batch).mean()
            loss.backward()
            w.step(loss, batch)
            optimizer.step()
    return w


@pytest.mark.parametrize(("left", "kept"), [(SIZE, False), (2 * SIZE, True), (None, True)])
def test_a_gauge_that_needs_more_memory_than_is_left_is_left_out(
    left: int | None, kept: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gauge, "SMALL_MODEL", 0)
    monkeypatch.setattr(gauge, "left_on", lambda device: left)
    w = trained(tmp_path, ["noise", "batch_sharpness"])
    assert w.run is not None
    assert (
        len(w.run.series("noise")) == 20 and (w.run.series("batch_sharpness") is not None) == kept
    )
    if kept:
        assert w.run.warnings == []
    else:
        (warning,) = w.run.warnings
        assert (
            "batch_sharpness is no longer measured: it needs about 3.6e-07 GB of memory and 1.8e-07"
            in warning
        )
        assert warning in w.findings().warnings


@dataclass(frozen=True)
class Greedy(Gauge):
    """Asks for more memory than there is."""

    name: ClassVar[str] = "greedy"
    issue: ClassVar[Issue] = Issue.DRIFT
    unit: ClassVar[str] = ""

    def measure(self, step: TrainingStep) -> Moments:
        """Fail as torch does."""
        return {"numbers": float(torch.empty(2**45, dtype=torch.float64).sum())}

    def estimate(self, series, level=0.9):
        """Nothing."""
        return {}

    def judge(self, estimates, run=None):
        """Nothing."""


def test_a_gauge_for_which_the_memory_was_not_enough_is_left_out_too(tmp_path: Path) -> None:
    w = trained(tmp_path, ["noise", Greedy()])
    assert w.run is not None and len(w.run.series("noise")) == 20
    (warning,) = w.run.warnings
    assert "greedy is no longer measured: the memory was not enough (" in warning


def test_the_memory_that_is_left_is_a_part_of_the_machine_s() -> None:
    left = gauge.left_on(torch.device("cpu"))
    if Path("/proc/meminfo").exists():
        total = int(Path("/proc/meminfo").read_text().split()[1]) * 1024
        assert left is not None and 0 < left < total


def test_a_container_s_limit_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = {
        "memory.max": "3000000\n",
        "memory.current": "2000000\n",
        "memory.stat": "anon 1\ninactive_file 500000\n",
    }
    for name, content in numbers.items():
        (tmp_path / name).write_text(content)
    monkeypatch.setattr(gauge, "LIMITS", tmp_path)
    if Path("/proc/meminfo").exists():
        assert gauge.left_on(torch.device("cpu")) == 1_500_000


def test_the_run_says_by_how_much_a_reading_raised_the_peak(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    peaks = iter([100, 150, 150, 180, *[180] * 100])
    monkeypatch.setattr("gradiometer.run.recorder.peak_of", lambda step: next(peaks))
    w = trained(tmp_path, ["noise"])
    assert w.overhead["memory"] == 50
    assert w.run is not None and w.run.overhead["memory"] == 50
