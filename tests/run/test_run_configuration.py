"""The configuration: read back as written, and nonsense refused by name, with its line."""

import math
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gradiometer import BadArgument
from gradiometer.cli.options import configuration_from
from gradiometer.convergence.schedules.shapes import schedule_by_name
from gradiometer.run import Configuration
from gradiometer.run.planned import planned
from gradiometer.run.rules import SCHEDULES


def toml(folder: Path, text: str) -> Path:
    path = folder / "train.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    "configuration",
    [
        Configuration(),
        Configuration(
            learning_rate=3.2e-05,
            momentum=0.9,
            nesterov=True,
            schedule="cosine",
            every=3,
            threads=2,
        ),
        Configuration(
            problem="my.module:digits", model="mlp", data_dir="/data", parts=0, accumulation=4
        ),
        Configuration(
            batch_size=1, budget=0.0, checkpoint_seconds=math.inf, sampling="replacement"
        ),
    ],
)
def test_a_configuration_is_read_back_as_it_was_written(
    tmp_path: Path, configuration: Configuration
) -> None:
    assert Configuration.from_toml(toml(tmp_path, configuration.to_toml())) == configuration


def test_a_rate_that_is_left_out_fits_the_optimizer(tmp_path: Path) -> None:
    assert (Configuration().rate, Configuration(optimizer="adamw").rate) == (0.1, 0.001)
    assert Configuration(optimizer="adamw", learning_rate=0.1).rate == 0.1
    assert Configuration(optimizer="adamw", schedule="0.01/sqrt(t)").rate == 0.01
    file = toml(tmp_path, "batch_size = 8\n")
    assert configuration_from(file, {"optimizer": "adamw", "learning_rate": None}).rate == 0.001
    assert configuration_from(file, {"optimizer": "adamw", "learning_rate": 0.1}).rate == 0.1


def test_a_whole_number_is_a_number_and_dashes_are_underscores(tmp_path: Path) -> None:
    read = Configuration.from_toml(toml(tmp_path, "learning-rate = 1\nbatch_size = 8\n"))
    assert read.learning_rate == 1.0 and type(read.learning_rate) is float
    assert read == Configuration(learning_rate=1.0, batch_size=8)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            '# mine\n\nseed = 1\nbatch_size = "32"\n',
            'train.toml:4: `batch_size` must be an integer, got "32".',
        ),
        (
            "lerning_rate = 0.1\n",
            "train.toml:1: unknown key `lerning_rate`: did you mean learning_rate?",
        ),
        (
            "lerning-rate = 0.1\n",
            "train.toml:1: unknown key `lerning-rate`: did you mean learning_rate?",
        ),
        (
            "seed = 1\n[telescope]\nx = 1\n",
            "train.toml:2: unknown key `telescope`: the keys are problem, model",
        ),
        (
            "batch-size = 3\nbatch_size = 3\n",
            "`batch_size` is given twice, with - and with _: remove",
        ),
        (
            "learning_rate = nan\n",
            "train.toml:1: `learning_rate` must be positive and finite, got nan.",
        ),
        ("every = true\n", "train.toml:1: `every` must be an integer, got true."),
        ("nesterov = 1\n", "train.toml:1: `nesterov` must be true or false, got 1."),
        (
            'schedule = "cosin"\n',
            "train.toml:1: `schedule` 'cosin' is unknown: did you mean cosine?",
        ),
        (
            'schedule = "warm"\n',
            "train.toml:1: `schedule` 'warm' is unknown: use one of constant, cosine, linear",
        ),
        ('schedule = "0.1/x"\n', "train.toml:1: `schedule`: `expression` '0.1/x': unknown name x"),
        ('schedule = "-1/t"\n', "gives -1.0 at step 0: a rate must be finite and not negative"),
        (
            'schedule = "1/t"\nlearning_rate = 0.1\n',
            "`schedule` is a formula for η, up to 1: leave it out.",
        ),
        ("problem = [1, 2]\n", "`problem` must be text in quotes, got [1, 2]."),
        ("seed = 1\nepochs = = 3\n", "train.toml:2: not valid TOML: Invalid value, at column 10."),
        ("[batch_size]\n", "train.toml:1: `batch_size` must be an integer, got a table."),
        ("batch_size = 1\n", "train.toml:1: `batch_size` is 1, so a step has no spread"),
    ],
)
def test_what_is_wrong_in_a_file_is_named_with_its_line(
    tmp_path: Path, text: str, sentence: str
) -> None:
    with pytest.raises(BadArgument) as refusal:
        Configuration.from_toml(toml(tmp_path, text))
    assert sentence in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", None])
def test_a_file_that_is_no_text_or_is_not_there_is_refused(
    tmp_path: Path, content: bytes | None
) -> None:
    path = tmp_path / "train.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BadArgument, match=r"train\.toml` (is not UTF-8 text|cannot be read)"):
        Configuration.from_toml(path)
    with pytest.raises(BadArgument, match="is a directory"):
        Configuration.from_toml(tmp_path)


NONSENSE: list[tuple[str, Any]] = [
    *(("learning_rate", value) for value in (math.nan, 0.0, -1.0, math.inf, "0.1")),
    *(("batch_size", value) for value in (0, -3, 2.5, "32", True, None)),
    *(("epochs", value) for value in (0, -1, math.nan)),
    *(("momentum", value) for value in (math.nan, 1.0, -0.1, math.inf)),
    *(("weight_decay", value) for value in (math.nan, -1e-9, math.inf)),
    *(("accumulation", value) for value in (0, 33, 1.5)),
    *(("parts", value) for value in (1, -2, 64)),
    *(("budget", value) for value in (math.nan, -0.01, 1.0, math.inf)),
    *(("every", value) for value in (0, -1, 1.5)),
    *(("level", value) for value in (math.nan, 0.0, 1.0, 90.0)),
    *(("seed", value) for value in (-1, 2**63)),
    *(("threads", value) for value in (0, 513, None)),
    *(("checkpoint_seconds", value) for value in (math.nan, -1.0)),
    *(("keep_checkpoints", value) for value in (0,)),
    *(("problem", value) for value in ("", "  ", None)),
    *(("model", value) for value in ("", 3)),
    *(("device", value) for value in ("", None)),
    *(("data_dir", value) for value in ("",)),
    *(("nesterov", value) for value in (True, "yes", 1)),
    *(("sampling", value) for value in ("shuffled", None)),
]


@pytest.mark.parametrize(("name", "value"), NONSENSE)
def test_nonsense_is_refused_by_name_however_it_is_given(name: str, value: Any) -> None:
    with pytest.raises(BadArgument, match=rf"^`?{name}\b.*\.$"):
        Configuration(**{name: value})
    with pytest.raises(BadArgument, match=rf"^here: `?{name}\b"):
        Configuration.from_mapping({name: value}, "here")
    with pytest.raises(BadArgument, match=rf"^`?{name}\b"):
        msgspec.structs.replace(Configuration(), **{name: value})


def test_settings_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(BadArgument, match=r"raise batch_size to at least 2, or set budget to 0\.$"):
        Configuration(batch_size=1)
    with pytest.raises(BadArgument, match="a budget of 0 switches measuring off"):
        Configuration(budget=0.0, every=5)
    with pytest.raises(BadArgument, match="8 parts of a batch of 4"):
        Configuration(parts=8, batch_size=4)
    # not used: the run is read as it is made
    assert Configuration(parts=8, batch_size=4, accumulation=2).parts == 8


@pytest.mark.parametrize("steps", [1, 2, 7, 300])
def test_a_trapezoid_keeps_the_rate_for_half_of_the_run_and_falls_to_zero_in_a_line(
    steps: int,
) -> None:
    schedule, kept = (
        planned(Configuration(schedule="trapezoid", learning_rate=0.2, steps=steps), steps),
        steps // 2,
    )
    line = [0.2 * (steps - step) / (steps - kept) for step in range(kept, steps + 1)]
    assert [schedule(step) for step in range(steps + 1)] == pytest.approx([0.2] * kept + line)


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_with_a_name_can_be_made(name: str) -> None:
    assert schedule_by_name(name, 0.1, 100, snapshots=2) is not None
