"""`gradiometer split`: its table, its JSON, what it refuses, and the file it exports."""

import json
from pathlib import Path

import pytest
import torch

from command_line import called

SMALL = ["digits", "--model", "mlp", "--steps", "40", "--lr", "0.2", "--members", "1,2", "--out", "runs"]


def test_the_table_has_every_split_and_the_same_command_trains_nothing_again(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, _ = called(capsys, "split", *SMALL, "--json")
    found = json.loads(out)
    assert code == 0 and found["export"] is None and found["cost"] == 2
    assert [(each["members"], each["steps"], each["trained"]) for each in found["splits"]] == [(1, 40, 1), (2, 20, 2)]
    assert found["chosen"]["forecast"] == min((each["forecast"] for each in found["splits"]), key=lambda e: e["value"])
    assert (found["choosing"], found["scored"]) == (180, 180)
    assert sum(found["weights"]) == pytest.approx(1)
    kept = Path("runs/digits-mlp-split/members.jsonl").read_bytes()
    code, out, _ = called(capsys, "split", *SMALL)
    assert code == 0 and Path("runs/digits-mlp-split/members.jsonl").read_bytes() == kept
    assert "2 runs of 20 steps" in out and "1 of 1 trained" in out
    assert "A budget of 40 steps is best spent on" in out


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--members", "1,two"], "`--members` must be whole numbers with commas between them, got '1,two'"),
        (["--members", "3"], "`members` must be at least two different numbers"),
        (["--schedule", "Cosine(0.2, steps=1000)"], "`schedule` must be cosine, linear, trapezoid or constant"),
        (["--optimizer", "schedulefree"], "`optimizer` schedulefree has no length to split"),
        (["--export", "it.txt"], "`export` must be a file named .pt2"),
    ],
)
def test_what_cannot_be_split_is_refused(capsys: pytest.CaptureFixture[str], given: list[str], message: str) -> None:
    code, _, told = called(capsys, "split", *SMALL, *given)
    assert code == 2 and message in told


@pytest.mark.slow
def test_the_exported_file_predicts_with_all_members(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, _ = called(capsys, "split", *SMALL, "--export", "it.pt2")
    assert code == 0 and "export  it.pt2" in out
    probabilities = torch.export.load("it.pt2").module()(torch.rand(5, 1, 8, 8))
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(5))
