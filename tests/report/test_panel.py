"""The panel in a terminal: the five questions in two lines each, on 80 columns, and a summary at
the end."""

import io
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace
from rich.console import Console

from gradiometer.cli.outcome import answers, tell
from gradiometer.cli.panel import Panel, two_lines
from gradiometer.problems import load
from gradiometer.report.sections.catalogue import sections
from gradiometer.report.sections.questions import QUESTIONS
from gradiometer.run import Configuration
from gradiometer.train import train
from report_run import diagnosis_of, run_in


def drawn(
    folder: Path,
    width: int,
    change: Callable[[Panel], None] = lambda panel: None,
    optimizer: str = "sgd",
) -> list[str]:
    """The lines of the last panel that a short training showed on a terminal of this width."""
    seen: list[str] = []

    class Kept(Panel):
        def update(self, training: object, recorder: object, loss: float) -> None:
            super().update(training, recorder, loss)
            if training.step == 40:
                change(self)
                paper = Console(file=io.StringIO(), width=width, record=True)
                paper.print(self._draw(training, recorder))
                seen.extend(paper.export_text().splitlines())

    console = Console(file=io.StringIO(), force_terminal=True, width=width)
    panel = Kept(console)
    configuration = Configuration(
        problem="digits", model="mlp", optimizer=optimizer, epochs=1, every=1, parts=2
    )
    train(load("digits", model="mlp"), replace(configuration, check_edge=False), folder, panel)
    panel.close()
    return seen


def test_five_questions_have_two_lines_each_on_80_columns(tmp_path: Path) -> None:
    lines = drawn(tmp_path, 80)
    assert all(len(line) == 80 for line in lines)
    assert len(lines) <= 18
    places = [
        next(at for at, line in enumerate(lines) if re.match(rf"│ \S +{question.short} ", line))
        for question in QUESTIONS
    ]
    assert places == list(range(places[0], places[0] + 10, 2))
    text = "\n".join(lines)
    assert "step 40 of 45" in text and "left" in text
    assert re.search(r"loss +\d\.\d{4} +[▁▂▃▄▅▆▇█]{40}", text) and re.search(
        r"learning rate +0\.1 ", text
    )
    assert re.search(r"noise scale now +[\d.]+ \[[\d.]+, [\d.]+\], B = 32", text)
    assert "not measured yet" in text and "gradiometer measure certificate" in text
    # `every` has no budget
    assert re.search(r"measured 40 steps, using [\d,.]+ % of the training time +│", text)


def test_under_adamw_the_panel_gives_no_forecast_of_sgd(tmp_path: Path) -> None:
    text = "\n".join(drawn(tmp_path, 100, optimizer="adamw"))
    assert "doubling B" not in text and "preconditioned" in text


def test_a_narrow_terminal_keeps_the_panel_within_it(tmp_path: Path) -> None:
    assert max(len(line) for line in drawn(tmp_path, 60)) <= 60


def test_a_spike_has_two_lines_below_the_questions(tmp_path: Path) -> None:
    def spiky(panel: Panel) -> None:
        panel.losses.extend((1 + 0.05 * np.random.default_rng(0).standard_normal(200)).tolist())
        panel.losses[200] = 9.0
        panel.rates.extend([0.1] * 200)

    lines = drawn(tmp_path, 80, spiky)
    place = next(at for at, line in enumerate(lines) if re.match(r"│ ◆ +spikes ", line))
    assert "look: The loss spiked at step 0: it rose from 1" in lines[place] and all(
        len(line) == 80 for line in lines
    )


def test_what_does_not_fit_into_two_lines_ends_in_an_ellipsis() -> None:
    assert two_lines("a few words", 40) == "a few words\n"
    assert (
        two_lines("not measured yet\ngradiometer measure certificate run", 40)
        == "not measured yet\ngradiometer measure certificate run"
    )
    cut = two_lines("word " * 40, 24).split("\n")
    assert len(cut) == 2
    assert cut[1].endswith(" …")
    assert max(map(len, cut)) <= 24


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
