"""A log whose losses say nothing is answered in sentences."""

import json
from pathlib import Path

import pytest

from command_line import called


@pytest.mark.parametrize("loss", [0.0, 1.0, 1e300, 1e-300])
def test_a_loss_that_never_changes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], loss: float
) -> None:
    log = tmp_path / "constant.jsonl"
    rows = ({"step": step, "epoch": step // 20, "loss": loss} for step in range(400))
    log.write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, out, error = called(capsys, "doctor", str(log))
    assert code in (0, 1) and "Traceback" not in error, error
    assert "bug in gradiometer" not in error and out


@pytest.mark.parametrize("high", [range(200, 201), range(200, 230), range(0, 400, 7)])
def test_a_loss_that_is_nearly_all_zeros(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], high: range
) -> None:
    log = tmp_path / "zeros.jsonl"
    rows = ({"step": step, "loss": float(step in high)} for step in range(400))
    log.write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, out, error = called(capsys, "doctor", str(log))
    assert code == 0 and "Traceback" not in error, error
    assert "Does the loss spike?" in out or "spike" in out
