"""Numbers that no computer has room for, and NaN, are refused by name in a moment, before anything
is trained."""

import time
from pathlib import Path

import numpy as np
import pytest

from command_line import called
from gradiometer import BadArgument
from gradiometer.arguments import check_whole
from gradiometer.estimation import GradientNoise
from gradiometer.loop.horizon import Horizon
from gradiometer.measurement import Draw, Sampling
from gradiometer.run import Configuration

WHOLE = (
    "batch_size",
    "epochs",
    "steps",
    "accumulation",
    "parts",
    "every",
    "snapshots",
    "keep_checkpoints",
)


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize(
    "number", [2**53, 10**18, 10**30, 10**5000], ids=["2^53", "10^18", "10^30", "10^5000"]
)
def test_a_number_above_all_steps_is_refused_by_name(name: str, number: int) -> None:
    with pytest.raises(
        BadArgument, match=rf"`{name}` must be below 2\^53, got about 2\^\d+\."
    ) as refused:
        Configuration(**{name: number})
    assert refused.value.argument == name


def test_a_number_that_is_accepted_need_not_be_printable() -> None:
    number = 10**5000
    assert Sampling(Draw.REPLACEMENT, number).examples == number
    assert GradientNoise(parts=number).parts == number


def test_epochs_that_give_too_many_steps_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, error = called(capsys, "train", "digits", "-e", str(2**53 - 1))
    # a busy machine says before that it loads
    assert code == 2 and error.splitlines()[-1] == (
        "error: `epochs` must give less than 2^53 steps: give fewer than 9,007,199,254,740,991."
    )
    assert not [*tmp_path.rglob("run.toml")]


@pytest.mark.parametrize("number", [2**63, 10**5000], ids=["2^63", "10^5000"])
def test_a_whole_number_that_no_tensor_holds_is_refused(number: int) -> None:
    with pytest.raises(BadArgument, match=r"`seed` must be below 2\^63, got about 2\^\d+\."):
        check_whole("seed", number, 0)
    check_whole("seed", 2**63 - 1, 0)
    check_whole("seed", np.uint64(2**63 - 1), 0)


def test_a_loss_that_has_grown_beyond_all_digits_is_written_with_a_power(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, error = called(
        capsys, "train", "quadratic", "--steps", "5", "--lr", "1e30", "--no-open"
    )
    assert code == 4 and "e+58 times that of the first step" in error
    code, _, error = called(
        capsys, "train", "quadratic", "--steps", "20", "--lr", "20", "--no-open"
    )
    assert code == 4 and "e+" not in error.partition(" times")[0].rpartition(", ")[2]


@pytest.mark.parametrize("budget", ["nan", "-1", "2.5"])
def test_a_budget_for_a_tuning_that_was_not_asked_for_is_refused(
    capsys: pytest.CaptureFixture[str], budget: str
) -> None:
    code, _, error = called(capsys, "train", "quadratic", "--tune-budget", budget)
    assert code == 2 and error.startswith(
        "error: `--tune-budget` is about the tuning before the training: give --tune"
    )


@pytest.mark.parametrize(
    "command", ["measure sharpness digits", "learn sample quadratic", "fork ."]
)
@pytest.mark.parametrize("seed", ["-1", str(2**63), "1" + "0" * 30, "nan"])
def test_a_seed_that_no_generator_takes_is_refused(
    capsys: pytest.CaptureFixture[str], command: str, seed: str
) -> None:
    code, _, error = called(capsys, *command.split(), f"--seed={seed}")
    assert code == 2 and "Invalid value for '--seed'" in error


@pytest.mark.parametrize(
    ("command", "option"),
    [
        ("measure sharpness digits", "--probes=10001"),
        ("measure sharpness digits", "--probes=1000000000000000000"),
        ("measure sharpness digits", f"--steps={2**53}"),
        ("ensemble .", "--points=10001"),
        ("ensemble .", "--points=1000000000000000000000000000000"),
    ],
)
def test_numbers_that_would_fill_the_memory_are_refused(
    capsys: pytest.CaptureFixture[str], command: str, option: str
) -> None:
    code, _, error = called(capsys, *command.split(), option)
    assert code == 2 and f"Invalid value for '{option.partition('=')[0]}'" in error


@pytest.mark.parametrize(
    "text", ["1" * 100_000, "1," * 50_000 + "x 1", " " * 100_000, "1" * 100_000 + " updates"]
)
def test_no_text_of_a_length_takes_long(text: str) -> None:
    """The first two took time with the square of their length."""
    began = time.process_time()
    with pytest.raises(BadArgument, match="must be a length with its unit"):
        Horizon.parse(text)
    assert time.process_time() - began < 5
