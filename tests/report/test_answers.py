"""The summary at the end of a command: a line for every question."""

from pathlib import Path

import pytest

from gradiometer.cli.outcome import answers, tell
from gradiometer.report.sections.catalogue import sections
from gradiometer.report.sections.questions import QUESTIONS
from report_run import diagnosis_of, run_in


def test_the_end_has_a_line_for_every_question(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_in(tmp_path, steps=100)
    shown = sections(run, diagnosis_of())
    lines = list(answers(run, diagnosis_of(), shown, 200))
    assert [line.split()[1] for line in lines] == [
        question.short.split()[0] for question in QUESTIONS
    ]
    assert lines[0].split() == ["◆", "batch", "look"]
    assert f"not measured: gradiometer measure certificate {run.path}" in lines[3]
    tell(run, diagnosis_of(), shown)
    assert "\n".join(answers(run, diagnosis_of(), shown)) in capsys.readouterr().out
    narrow = list(answers(run, diagnosis_of(), shown, 40))
    assert f"      gradiometer measure certificate {run.path}" in narrow, (
        "what does not fit gets a line of its own, whole to paste"
    )
    assert max(len(line) for line in narrow if not line.startswith(" " * 6)) <= 40
