"""The readings of a run as they come: what was read stays read, what was torn is taken up, what is
overtaken is dropped."""

import json
from pathlib import Path

import numpy as np
import pytest

from gradiometer.measurement.optimizer.groups import Group, written
from gradiometer.run import Configuration, Run
from gradiometer.run.folder import RunFolder
from gradiometer.run.readings import AT_ONCE, Readings


def reading(step: int, trace: object = 2.0, gauge: str = "noise") -> str:
    line = {"kind": "reading", "gauge": gauge, "step": step, "batch_size": 4, "learning_rate": 0.1}
    return (
        json.dumps(line | {"moments": {"gradient_variance": trace, "layers": [1.0, float(step)]}})
        + "\n"
    )


def losses(first: int, *values: object) -> str:
    return json.dumps({"kind": "losses", "from": first, "values": values}) + "\n"


def settings(step: int, rate: float) -> str:
    groups = written([Group("SGD", "sgd", rate)])
    return json.dumps({"kind": "hyperparameters", "step": step, **groups}) + "\n"


@pytest.fixture
def run(tmp_path: Path) -> Run:
    manifest = {"configuration": Configuration().to_dict(), "layers": ["a", "b"]}
    return Run.open(RunFolder.create(tmp_path, "run", manifest).path)


def write(run: Run, text: str) -> None:
    with run.readings_path().open("a") as file:
        file.write(text)


def test_what_came_since_is_read_and_what_was_read_is_not_read_again(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run.series("noise") is None
    write(run, reading(0) + losses(0, 3.0, 2.0))
    first = run.refreshed()
    assert first.losses[1].tolist() == [3.0, 2.0]
    taken: list[bytes] = []
    original = Readings._take
    monkeypatch.setattr(
        Readings, "_take", lambda self, content: (taken.append(content), original(self, content))[1]
    )
    write(run, reading(1) + losses(2, 1.0))
    second = first.refreshed()
    series = second.series("noise")
    assert series is not None
    assert series.steps.tolist() == [0, 1]
    assert series.moments["layers"].tolist() == [[1.0, 0.0], [1.0, 1.0]]
    assert second.losses[0].tolist() == [0, 1, 2]
    assert [content.count(b"reading") for content in taken] == [1]
    assert first.losses[1].tolist() == [3.0, 2.0], "what was handed out stays as it was"


def test_a_line_caught_half_written_is_read_when_it_is_whole(run: Run) -> None:
    whole = reading(1)
    write(run, reading(0) + whole[:30])
    torn = run.refreshed()
    assert torn.series("noise").steps.tolist() == [0]
    assert torn.warnings == ["readings.jsonl:2: the last line is incomplete: skipped."]
    write(run, whole[30:-1])
    assert torn.refreshed().series("noise").steps.tolist() == [0, 1]
    write(run, "\ngarbled\n" + reading(2))
    mended = torn.refreshed()
    assert mended.series("noise").steps.tolist() == [0, 1, 2]
    assert mended.warnings == ["readings.jsonl:3: a line cannot be read: skipped."]


def test_a_last_line_that_lacks_only_its_newline_is_read_once(run: Run) -> None:
    write(run, settings(0, 0.1)[:-1])
    readings = Readings(run.readings_path())
    assert readings.read() and not readings.read()
    write(run, "\n" + settings(7, 0.2))
    assert readings.read() and not readings.read()
    assert [step for step, _ in readings.settings] == [0, 7]


def test_settings_of_steps_that_a_resumed_run_makes_again_are_dropped(run: Run) -> None:
    write(run, settings(0, 0.1) + settings(4, 0.2) + settings(6, 0.3))
    before = run.refreshed()
    assert before.hyperparameters.rates.tolist() == [0.1, 0.2, 0.3]
    write(run, json.dumps({"kind": "resumed", "step": 4}) + "\n")
    assert before.refreshed().hyperparameters.steps == (0,)
    write(run, settings(5, 0.4))
    after = before.refreshed().hyperparameters
    assert after.steps == (0, 5) and after.rates.tolist() == [0.1, 0.4]


def test_a_reading_says_how_many_steps_were_made_before_it(run: Run) -> None:
    """It is taken before the update of its step."""
    write(run, reading(3) + reading(7) + reading(5, gauge="other"))
    assert run.refreshed().steps == 7
    write(run, losses(4, 1.0))
    assert run.refreshed().steps == 7
    write(run, losses(7, 1.0))
    assert run.refreshed().steps == 8


def test_a_resumed_run_drops_what_it_has_overtaken_also_while_it_is_followed(run: Run) -> None:
    write(run, "".join(reading(step) for step in range(4)) + losses(0, 4.0, 3.0, 2.0, 1.0))
    before = run.refreshed()
    assert before.steps == 4  # all four updates were made: a loss is recorded after its update
    write(
        run,
        json.dumps({"kind": "resumed", "step": 2}) + "\n" + reading(2, trace=7.0) + losses(2, 9.0),
    )
    after = before.refreshed()
    assert after.series("noise").steps.tolist() == [0, 1, 2]
    assert after.series("noise").moments["gradient_variance"].tolist() == [2.0, 2.0, 7.0]
    assert after.losses[1].tolist() == [4.0, 3.0, 9.0]


def test_a_checkpoint_of_step_2_was_made_before_the_reading_and_the_loss_of_step_2(
    run: Run,
) -> None:
    """Also where the resumed run does not measure that step again; an event of step 2 was before
    the checkpoint."""
    write(run, "".join(reading(step) for step in range(4)) + losses(0, 4.0, 3.0, 2.0, 1.0))
    write(run, json.dumps({"kind": "resumed", "step": 2}) + "\n")
    events = [("started", 0), ("evaluation", 2), ("evaluation", 3), ("resumed", 2)]
    lines = [json.dumps({"event": event, "step": step, "time": 0.0}) for event, step in events]
    run.events_path.write_text("\n".join(lines) + "\n")
    resumed = run.refreshed()
    assert resumed.series("noise").steps.tolist() == resumed.losses[0].tolist() == [0, 1]
    assert [(event["event"], event["step"]) for event in resumed.events] == [
        events[0],
        events[1],
        events[3],
    ]


def test_a_file_that_was_replaced_or_is_gone_is_read_anew(run: Run) -> None:
    write(run, reading(0) + reading(1))
    path, first = run.readings_path(), run.refreshed()
    assert len(first.series("noise")) == 2
    aside = path.with_name("other")
    aside.write_text(reading(5))
    aside.replace(path)
    second = first.refreshed()
    assert second.series("noise").steps.tolist() == [5]
    path.unlink()
    assert second.refreshed().series("noise") is None


def test_a_file_that_has_become_shorter_is_read_anew(run: Run) -> None:
    write(run, "".join(reading(step) for step in range(4)))
    path, first = run.readings_path(), run.refreshed()
    assert len(first.series("noise")) == 4
    number = path.stat().st_ino
    path.write_text(reading(5))
    assert path.stat().st_ino == number  # the same file, with less in it
    assert first.refreshed().series("noise").steps.tolist() == [5]


def test_readings_of_several_shapes_and_words_for_numbers_are_kept_apart(run: Run) -> None:
    odd = json.dumps(
        {
            "kind": "reading",
            "gauge": "noise",
            "step": 2,
            "batch_size": 4,
            "learning_rate": 0.1,
            "moments": {"gradient_variance": 1.0},
        }
    )
    write(
        run,
        reading(0) + reading(1, trace="nan") + odd + "\n" + reading(3, trace="-inf") + reading(4),
    )
    write(run, losses(0, "inf", 1.0))
    found = run.refreshed()
    assert found.series("noise").steps.tolist() == [0, 4]
    assert found.warnings == [
        "noise: 2 of 5 readings are not finite, the first at step 1: skipped.",
        "noise: 1 readings have other moments than the rest: skipped.",
    ]
    assert np.isinf(found.losses[1][0])


def test_a_file_of_many_pieces_is_read_as_one(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert AT_ONCE > 1_000_000
    write(run, "".join(reading(step) for step in range(200)))
    whole = run.refreshed().series("noise")
    monkeypatch.setattr("gradiometer.run.readings.AT_ONCE", 257)
    pieces = Run.open(run.path).series("noise")
    assert pieces.steps.tolist() == whole.steps.tolist() == list(range(200))
    assert (pieces.moments["layers"] == whole.moments["layers"]).all()


def test_readings_that_were_handed_out_are_kept_in_one_piece_and_as_they_were(run: Run) -> None:
    write(run, "".join(reading(step) for step in range(5)))
    first = run.refreshed()
    before = first.series("noise")
    steps = before.steps.copy()
    write(run, "".join(reading(step) for step in range(5, 9)))
    after = first.refreshed().series("noise")
    (parts,) = first._journal._parts["noise"].values()
    assert [len(part) for part in parts] == [9]
    assert np.shares_memory(after.moments["layers"], parts[0].moments["layers"])
    assert (before.steps == steps).all() and after.steps.tolist() == list(range(9))


@pytest.mark.parametrize("odd", [3.0, "nan", [1.0], [1.0, 2.0, 3.0]])
def test_one_reading_of_another_shape_among_many_costs_itself(run: Run, odd: object) -> None:
    strange = {
        "kind": "reading",
        "gauge": "noise",
        "step": 1,
        "batch_size": 4,
        "learning_rate": 0.1,
    }
    line = json.dumps(strange | {"moments": {"gradient_variance": 2.0, "layers": odd}}) + "\n"
    write(run, reading(0) + line + reading(2))
    found = run.refreshed()
    assert found.series("noise").steps.tolist() == [0, 2]
    assert found.series("noise").moments["layers"].tolist() == [[1.0, 0.0], [1.0, 2.0]]
    assert len(found.warnings) == 1 and found.warnings[0].startswith("noise: 1 ")
