"""The words for a schedule, from the rates where they changed, and the record of them."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from gradiometer.measurement.optimizer.groups import Changes, Group, read
from gradiometer.measurement.optimizer.hyperparameters import Hyperparameters
from gradiometer.run import Run
from gradiometer.run.folder import RunFolder
from gradiometer.run.recorder import Recorder

T = 5000


def cosine(step: int, start: int = 0, end: int = T, high: float = 6e-4, low: float = 6e-5) -> float:
    return (
        low
        + (high - low)
        * (1 + math.cos(math.pi * min(step - start, end - start) / (end - start)))
        / 2
    )


def recorded(rate: Callable[[int], float], steps: int = T) -> Hyperparameters:
    """What a loop with this rate records, and what is read back."""
    lines: list[dict[str, object]] = []
    changes = Changes(lines.append)
    for step in range(steps + 1):
        if step >= changes.next_look or step == steps:
            changes.look(step, (Group("SGD", "sgd", rate(step)),))
    line_steps = tuple(int(str(line["step"])) for line in lines)
    return Hyperparameters(line_steps, tuple(read(line) for line in lines), reached=steps)


@pytest.mark.parametrize(
    ("rate", "words"),
    [
        (lambda t: 0.1, "constant 0.1"),
        (cosine, "cosine, from 6e-4 to 6e-5"),
        (lambda t: 0.1 * (1 - t / T), "linear, from 0.1 to 0"),
        (lambda t: 0.1 * 0.999**t, "exponential, from 0.1 to 6.72e-4"),
        (lambda t: 0.1 / math.sqrt(1 + t), "falling, from 0.1 to 0.00141"),
        (
            lambda t: 6e-4 * t / 100 if t < 100 else cosine(t, 100),
            "warm-up over 100 steps to 6e-4, then cosine to 6e-5",
        ),
        (lambda t: 1e-3 * min(t / 500, 1), "warm-up over 500 steps to 0.001, then constant"),
        (lambda t: 1e-3 * t / T, "rising, from 0 to 0.001 now"),
        (
            lambda t: 0.1 * min(t / 200, 1, (T - t) / 1000),
            "warm-up over 200 steps to 0.1, then constant to step 4,000, then linear to 0",
        ),
        (lambda t: cosine(t, end=4000), "cosine, from 6e-4 to 6e-5, reached at step 4,000"),
        (lambda t: cosine(t // 250 * 250), "cosine, from 6e-4 to 6e-5"),
        (lambda t: 0.05 * (1.1 + math.cos(t / 300)), "up and down between 0.005 and 0.105, now"),
    ],
    ids=[
        "constant",
        "cosine",
        "linear",
        "exponential",
        "root",
        "warm-up and cosine",
        "warm-up",
        "rising",
        "trapezoid",
        "held",
        "once an epoch",
        "cycles",
    ],
)
def test_a_schedule_in_words(rate: Callable[[int], float], words: str) -> None:
    """Steps at which the rate turns are known to a 64th."""
    found = recorded(rate).rate_words
    expected, given = (
        [
            float(part.replace(",", "")) if part[0].isdigit() else part
            for part in text.replace(", ", " ").split()
        ]
        for text in (words, found)
    )
    for wanted, got in zip(expected, given, strict=False):
        assert got == (
            pytest.approx(wanted, rel=1 / 30) if isinstance(wanted, float) else wanted
        ), found


def test_cuts_are_named_with_their_steps() -> None:
    words = recorded(lambda t: 0.1 * 0.1 ** ((t >= 600) + (t >= 3000))).rate_words
    assert words.startswith("0.1, then 0.01 from step 60") and ", then 0.001 from step 3,0" in words


def test_the_record_is_short_and_dense_enough() -> None:
    settings = recorded(lambda t: 1.0 + t, steps=100_000)
    gaps = np.diff(settings.steps)
    assert (
        len(settings.steps) < 600
        and (gaps <= np.maximum(1, np.array(settings.steps[1:]) / 60)).all()
    )


def test_groups_with_one_shape_and_with_different_ones() -> None:
    steps = tuple(range(0, 101, 5))
    together = [
        (Group("SGD", "sgd", cosine(t, 0, 100)), Group("SGD", "sgd", 10 * cosine(t, 0, 100)))
        for t in steps
    ]
    apart = [(Group("SGD", "sgd", 0.1), Group("SGD", "sgd", 0.1 * (1 - t / 100))) for t in steps]
    words = Hyperparameters(steps, tuple(together), 100).rate_words
    assert words == "2 groups with peaks 6e-4 and 0.006; the largest: cosine, from 0.006 to 6e-4"
    assert (
        Hyperparameters(steps, tuple(apart), 100).rate_words
        == "2 groups: constant 0.1; linear, from 0.1 to 0"
    )
    many = [tuple(Group("SGD", "sgd", 0.1 * 0.8**place) for place in range(12)) for _ in steps]
    assert (
        Hyperparameters(steps, tuple(many), 100).rate_words
        == "12 groups: from 0.00859 to 0.1, constant"
    )


def test_an_exchanged_optimizer_is_named_and_the_peak_is_that_of_the_present_one() -> None:
    before, after = Group("Adam", "adaptive", 1.0, momentum=0.9), Group("SGD", "sgd", 0.1)
    settings = Hyperparameters((0, 300), ((before,), (after,)), 400)
    assert settings.optimizer == "Adam, then SGD from step 300" and settings.family == "sgd"
    assert settings.peaks == (0.1,) and settings.rate_words == "constant 0.1"


def test_several_optimizers_of_different_families_are_of_none() -> None:
    settings = Hyperparameters(
        (0,), ((Group("Muon", "other", 0.02), Group("AdamW", "adaptive", 1e-3)),)
    )
    assert settings.family == "other" and settings.optimizer == "Muon and AdamW"


def test_a_damaged_line_is_skipped_and_the_others_are_read(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path, "run", {})
    with Recorder(folder, []) as recorder:
        recorder.settings.look(0, (Group("SGD", "sgd", 0.1), Group("SGD", "sgd", 0.2)))
    lines = folder.readings_path().read_text().splitlines()
    line = next(json.loads(line) for line in lines if "hyperparameters" in line)
    broken = [
        {**line, "step": 1, "learning_rate": [0.1]},
        {**line, "step": 2, "family": "none"},
        {**line, "step": 3},
    ]
    with folder.readings_path().open("a") as file:
        file.writelines(json.dumps(each) + "\n" for each in broken)
    run = Run.open(folder.path)
    assert run.hyperparameters is not None and run.hyperparameters.steps == (0, 3)
    assert len([warning for warning in run.warnings if "skipped" in warning]) == 1


def test_a_run_without_a_record_has_the_rates_of_its_readings(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path, "run", {"configuration": {"momentum": 0.9}})
    planned = Run.open(folder.path).hyperparameters
    assert planned is not None and planned.rate_words == "constant 0.1" and not planned.recorded
    reading = {
        "kind": "reading",
        "gauge": "noise",
        "batch_size": 4,
        "moments": {"gradient_variance": [1.0]},
    }
    with folder.readings_path().open("w") as file:
        file.writelines(
            json.dumps({**reading, "step": s, "learning_rate": r}) + "\n"
            for s, r in ((0, 0.1), (9, 0.2))
        )
    found = Run.open(folder.path).hyperparameters
    assert found is not None and found.rates.tolist() == [0.1, 0.2] and found.now[0].momentum == 0.9
