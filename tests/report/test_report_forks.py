"""The section of the page about forks: the newest with charts, all in a table, and one that is
under way."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from gradiometer import Run, diagnose
from gradiometer.jobs import Job
from gradiometer.jobs.pool import Here
from gradiometer.loop import alternative_of
from gradiometer.loop.branch import BranchResult
from gradiometer.loop.readout import Readout
from gradiometer.loop.recorded.record import ForkRecord, Plan
from gradiometer.measurement.finding import Trial
from gradiometer.report.live import Followed
from gradiometer.report.page.first import effect_in_words
from gradiometer.report.page.page import render, write_charts
from gradiometer.report.sections.forks import forks_section
from gradiometer.report.sections.tested import figures_of_trial
from report_run import diagnosis_of, run_in


def branch(name: str, replicate: int, end: float | None) -> BranchResult:
    """A branch that ended at this loss; None: it diverged."""
    curve = tuple((64 * place, 2 / place + 0.1 * replicate) for place in range(1, 11))
    if end is None:
        return BranchResult(
            name, replicate, 640, 5, 320, 1.0, curve[:5], diverged="the loss is nan"
        )
    values = {"test_loss": Readout(end), "test_accuracy": Readout(1 - end, lower_is_better=False)}
    return BranchResult(name, replicate, 640, 20, 640, 1.0, curve, values)


def kept(run: Run, ends: dict[str, list[float | None]], replicates: int = 3) -> ForkRecord:
    plan = Plan(
        100,
        tuple(alternative_of(name) for name in ends if name != "go on"),
        replicates,
        640,
        left=2000,
    )
    record = ForkRecord.keep(run.path, plan)
    done = [(name, place, end) for name, found in ends.items() for place, end in enumerate(found)]
    jobs = [Job(f"{name} {place}", branch, (name, place, end)) for name, place, end in done]
    assert all(outcome.error is None for outcome in Here().run(jobs, ledger=record.ledger()))
    return record.finish() if len(done) == len(plan.branches) else record


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return run_in(tmp_path, steps=200)


TRIED = {
    "go on": [0.5, 0.51, 0.52],
    "rate 2x": [0.6, 0.62, 0.61],
    "rate 0.5x": [0.5, 0.52, 0.50],
    "clip 9": [None] * 3,
}


def test_a_run_without_forks_has_no_row_for_them(run: Run) -> None:
    assert forks_section(run, diagnosis_of()).figures == ()
    assert "row-forks" not in render(run, diagnosis_of())


@pytest.mark.slow
def test_the_page_shows_the_effects_and_the_branches(run: Run, tmp_path: Path) -> None:
    kept(run, TRIED)
    section = forks_section(run, diagnosis_of())
    effects, branches = section.figures
    assert effects.name == "fork-0001-effects" and branches.name == "fork-0001-branches"
    assert (
        "After 20 of 62 updates from step 100, against going on as it is, in test loss: "
        in effects.summary
    )
    assert "clip 9 diverged in 3 of 3 replicates. Three replicates, each cooled" in effects.summary
    assert (
        "◆ Only 3 replicates, so intervals are wide" in effects.note
        and "rate 0.5x: about" in effects.note
    )
    assert (
        branches.summary
        == "The mini-batch loss ends at 0.300 (go on), 0.300 (rate 2x), 0.300 (rate 0.5x), 0.500 (clip 9)."
    )
    by_name = {row[2]: row for row in section.table.rows}
    assert by_name["go on"][3:5] == ("0.510", "") and by_name["clip 9"][6] == "diverged"
    assert by_name["rate 2x"][6] == "worse" and by_name["rate 2x"][4].startswith("+0.10 [")
    assert section.words.startswith("change in test loss: rate 2x +0.10 [")
    page = render(run, diagnosis_of())
    assert 'id="row-forks"' in page and "What would have happened" in page
    pictures = {
        path.name
        for path in write_charts(run, diagnosis_of(), tmp_path / "charts", shown=(section,))
    }
    assert pictures == {"fork-0001-effects.png", "fork-0001-branches.png"}


def test_a_tested_change_is_drawn_beside_the_unchanged_branch_with_its_difference(
    run: Run,
) -> None:
    record = kept(run, {"go on": [0.5, 0.51, 0.52], "rate 2x": [0.4, 0.42, 0.41]})
    (effect,) = record.fork.effects()
    result = {"step": 100, "fork": record.name, "ends_after": (20, 62), "effect": effect}
    told = {"level": 0.51, "verdict": "held", "share": None, "not_better": False}
    diagnosis = diagnosis_of()
    finding = replace(
        diagnosis.findings[0],
        cure=("rate 2x",),
        trial=Trial(({**result, **told},)),
    )
    above, below = figures_of_trial(run, finding)
    assert (above.name, below.name) == ("tested", "tested-difference")
    assert "end at a test loss of 0.510 (unchanged) and 0.410 (rate 2x)" in above.summary
    assert str(effect.estimate) in above.summary and "3 data orders" in above.summary
    # the curves of this record are the same in both branches, pair by pair
    assert {row[3] for row in above.table.rows} == {"0"}
    assert effect_in_words(finding) == "20 % lower test loss with rate 2x: 0.410 for 0.510"
    assert figures_of_trial(run, diagnosis.findings[0]) == ()
    found = (finding, *diagnosis.findings[1:])
    page = render(run, replace(diagnosis, findings=found, headline=finding))
    first = page[page.index('<header class="top">') : page.index('<div class="rows">')]
    assert 'data-chart="tested"' in first and 'data-chart="tested-difference"' in first
    assert '<p class="effect">20\N{NO-BREAK SPACE}% lower test loss' in first
    assert 'id="row-loss"' in page, "the whole run keeps a row"


def test_the_band_goes_from_the_lowest_to_the_highest_replicate(run: Run) -> None:
    kept(run, TRIED)
    _, branches = forks_section(run, diagnosis_of()).figures
    assert ("go on", "120", "0.300", "0.200 to 0.400") in branches.table.rows
    values = json.dumps(branches.chart.to_dict())
    assert '"step": 120.0' in values and values.count('"series": "clip 9"') >= 5


def test_only_the_newest_fork_has_charts_and_all_are_in_the_table(run: Run) -> None:
    for place in range(5):
        kept(run, {"go on": [0.5, 0.5, 0.5], f"rate {2 + place}x": [0.4, 0.4, 0.4]})
    section = forks_section(run, diagnosis_of())
    assert [figure.name for figure in section.figures] == [
        "fork-0005-effects",
        "fork-0005-branches",
    ]
    assert [row[0] for row in section.table.rows[::2]] == ["0005", "0004", "0003", "0002", "0001"]


def test_more_alternatives_than_colours_are_named(run: Run) -> None:
    kept(run, {"go on": [0.5] * 3, **{f"rate {n}x": [0.4] * 3 for n in range(2, 9)}})
    _, branches = forks_section(run, diagnosis_of()).figures
    assert "Not drawn: rate 7x, rate 8x; the table has them." in branches.note
    assert branches.table.rows[-1][0] == "rate 8x"


def test_a_fork_under_way_says_how_far_it_is_and_the_live_page_follows_it(run: Run) -> None:
    followed = Followed(run.path)
    followed.look()
    first = followed.latest().version
    kept(run, {"go on": [0.5], "rate 2x": []})
    followed.not_before = 0.0
    assert followed.look() and followed.latest().version == first + 1
    assert [figure.name for figure in forks_section(run, diagnosis_of()).figures] == [
        "fork-0001-branches"
    ]
    kept(run, {"go on": [0.5, 0.6], "rate 2x": [0.4]})
    (figure, _) = forks_section(run, diagnosis_of()).figures
    assert figure.summary.endswith("each cooled to zero (stopped, 3 of 6 branches).")
    assert "has too few replicates to be compared" in figure.summary


def test_a_fork_that_cannot_be_read_is_named_on_the_page(run: Run) -> None:
    record = kept(run, TRIED)
    (record.path / "fork.json").write_text("{")
    page = render(run, diagnosis_of())
    assert (
        "forks/0001/fork.json cannot be read: left out" in page
        and "is not the plan of a fork" in page
    )


def test_diagnosing_a_run_with_forks_changes_nothing_in_its_numbers(run: Run) -> None:
    before = diagnose(run).to_dict()
    kept(run, TRIED)
    assert diagnose(Run.open(run.path)).to_dict() == before
