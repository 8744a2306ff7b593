"""File names that are not UTF-8, which Linux allows: runs can have them, and errors and pages can
quote them."""

import os
import sys
import threading
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from test_serve import asked
from torch import Tensor, nn

from command_line import called, run_cli
from gradiometer import BadArgument, Run, supervised, watch
from gradiometer.report.live import Live
from gradiometer.run.folder import RunFolder
from gradiometer.run.ranks import Ranks
from gradiometer.storage.journal import JournalWriter, read_journal
from report_run import run_in

NAME = os.fsdecode(b"caf\xe9")
LOSSES = supervised(nn.CrossEntropyLoss(reduction="none"))
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")


def test_a_run_s_own_name_and_settings_are_utf_8(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ("train", "quadratic", "--steps", "20", "--no-open", "--out", str(tmp_path))
    code, _, error = called(capsys, *command, "--name", NAME)
    assert code == 2 and error.startswith(
        "error: `name` must be a file name of at most 200 letters"
    )
    with pytest.raises(BadArgument, match="`manifest` cannot be written as TOML"):
        RunFolder.create(tmp_path, "run", {"data": NAME})
    assert list(tmp_path.iterdir()) == []


def test_a_record_with_such_a_name_is_kept_with_a_question_mark(tmp_path: Path) -> None:
    with_name = {"event": "warning", "text": f"{NAME}, η", "number": float("inf")}
    writer = JournalWriter(tmp_path / "a.jsonl", tmp_path)
    writer.append(with_name)
    writer.append({"event": "next"})
    writer.close()
    lines, warnings = read_journal(tmp_path / "a.jsonl")
    assert [line.record for line in lines] == [
        with_name | {"text": "caf?, η"},
        {"event": "next"},
    ] and not warnings


def test_an_error_that_quotes_one_is_a_warning_and_training_continues(tmp_path: Path) -> None:
    fails = False

    def losses(model: nn.Module, batch: Any) -> Tensor:
        if fails:
            raise ValueError(f"no picture in {NAME}")
        return LOSSES(model, batch)

    model = nn.Linear(4, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with watch(
        model,
        optimizer,
        loss=losses,
        out=tmp_path,
        every=1,
        parts=2,
        gauges="noise",
        page=False,
        quiet=True,
    ) as w:
        for step in range(6):
            fails = step == 3
            batch = torch.randn(8, 4), torch.randint(3, (8,))
            optimizer.zero_grad()
            loss = LOSSES(model, batch).mean()
            loss.backward()
            w.step(loss, batch)
            optimizer.step()
    assert w.run is not None and w.run.status == "finished" and len(w.run.losses[0]) == 6
    (warning,) = w.run.warnings
    assert (
        warning.startswith("noise is no longer measured: `loss` failed")
        and "no picture in caf?" in warning
    )


@pytest.mark.slow
def test_a_run_in_such_a_folder_can_be_read_compared_and_shown(tmp_path: Path) -> None:
    runs = [run_in(tmp_path / NAME, name, steps=60).path for name in ("first", "second")]
    first, second = [path.rename(path.with_name(f"{path.name}{NAME}")) for path in runs]
    assert run_cli("show", str(first)).returncode == 0
    assert "caf?" in (first / "report.html").read_text(encoding="utf-8")
    compared = run_cli(
        "runs", "compare", str(first), str(second), "--out", str(tmp_path / "compare.html")
    )
    assert compared.returncode == 0, compared.stderr
    live = Live([first, second])
    thread = threading.Thread(target=live.serve)
    thread.start()
    try:
        answer = asked(live.address)
        assert answer.status == 200 and "caf?" in answer.text
        assert asked(f"{live.address}run/0/update").status == 200
        (first / "run.toml").unlink()
        with patch.object(live.followed[0], "latest", lambda: Run.open(first)):
            answer = asked(live.address)
        assert answer.status == 503 and "caf?" in answer.text
    finally:
        live.stop()
        thread.join(10)


def test_every_rank_gets_the_path() -> None:
    sent: list[tuple[int, ...]] = []
    with patch.object(Ranks, "told", lambda _, *numbers: sent.append(numbers) or numbers):
        assert Ranks(0, 2).told_path(NAME) == NAME
    first = sent[1]
    with patch.object(Ranks, "told", lambda _, *numbers: (4,) if len(numbers) == 1 else first):
        assert Ranks(1, 2).told_path() == NAME
