"""Odd paths, numbers, variables and models end with a sentence that names them."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from command_line import called, commands_of
from gradiometer import BadArgument
from gradiometer.cli import gradiometer
from gradiometer.loop import alternative_of
from gradiometer.run import Configuration
from gradiometer.run.folder import RunFolder

PROBLEMS = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 1)

    def forward(self, x):
        return self.layer(x)

class Empty(nn.Module):
    def forward(self, x):
        return x

def loss(model, batch):
    return ((model(batch) - 1) ** 2).mean(1)

def meta():
    return Net().to("meta"), loss, torch.randn(64, 3), torch.randn(400, 3)

def empty():
    return Empty(), loss, torch.randn(64, 3), torch.randn(400, 3)

def meta_data():
    return Net(), loss, torch.randn(64, 3, device="meta")
"""
SAYS = {
    "meta": "on the meta device",
    "empty": "no trainable parameters",
    "meta_data": "on the meta device",
}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "odd_models.py").write_text(PROBLEMS)


@pytest.mark.parametrize("kind", SAYS)
@pytest.mark.parametrize(
    "command",
    [
        ("train", "--steps", "10", "--no-open"),
        ("tune", "--steps", "40"),
        ("tune", "--steps", "400", "--optimizer", "sgd,adamw"),
        ("measure batch", "--steps", "200"),
        ("learn sample", "--steps", "100"),
    ],
    ids=lambda command: " ".join(command[:1] + command[3:]),
)
def test_a_model_or_data_without_numbers_is_refused(
    capsys: pytest.CaptureFixture[str], command: tuple[str, ...], kind: str
) -> None:
    verb, *flags = command
    code, _, error = called(capsys, *verb.split(), f"odd_models:{kind}", *flags)
    assert code == 2 and SAYS[kind] in error and "Traceback" not in error


def test_a_rate_that_the_type_cannot_hold_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, error = called(capsys, "train", "digits", "--lr", "1e39", "--steps", "4", "--no-open")
    assert code == 2 and "`learning_rate` is 1e+39 at step 0" in error and "Traceback" not in error


@pytest.mark.parametrize("page", ["elsewhere/runs.html", "../up.html", "absolute"])
def test_the_page_of_runs_may_lie_anywhere(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, page: str
) -> None:
    run = RunFolder.create(tmp_path / "runs", "run", {"configuration": Configuration().to_dict()})
    (run.path / "report.html").write_text("")
    (tmp_path / "elsewhere").mkdir()
    path = tmp_path / "elsewhere" / "absolute.html" if page == "absolute" else Path(page)
    code, _, error = called(capsys, "runs", "runs", "--page", str(path))
    assert code == 0, error
    up = "" if page == "../up.html" else "../"
    folder = f"{tmp_path.name}/" if page == "../up.html" else ""
    assert f'href="{up}{folder}runs/run-1/report.html"' in path.read_text()


def test_a_folder_is_no_page(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    RunFolder.create(tmp_path / "runs", "run", {"configuration": Configuration().to_dict()})
    for page in (".", "runs", str(tmp_path)):
        code, _, error = called(capsys, "runs", "runs", "--page", page)
        assert code == 2 and "`page` must be a file" in error and "Traceback" not in error


@pytest.mark.parametrize(
    "given",
    [
        ("learn", "schedule", "1/t", "--png"),
        ("measure", "sharpness", "digits", "--png"),
        ("runs", "compare", "a", "b", "--out"),
    ],
)
@pytest.mark.parametrize("name", ["", ".", "/"])
def test_a_file_without_a_name_is_refused_before_the_work(
    capsys: pytest.CaptureFixture[str], given: tuple[str, ...], name: str
) -> None:
    code, _, error = called(capsys, *given, name)
    assert code == 2 and f"must be the name of a file, got {name!r}" in error


@pytest.mark.parametrize("seconds", ["x", "", "1.5", "-1", "9" * 5000])
def test_a_variable_that_a_library_stumbles_over_is_refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, seconds: str
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", seconds)
    code, _, error = called(capsys, "runs")
    assert code == 2 and "SOURCE_DATE_EPOCH must be a number of seconds" in error


def numbers(
    command: click.Command = gradiometer, words: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], str]]:
    """Every command, with each of its options that take a number or a text."""
    if isinstance(command, click.Group):
        for name, inner in commands_of(command):
            yield from numbers(inner, (*words, name))
        return
    for each in command.params:
        if (
            isinstance(each, click.Option)
            and not each.is_flag
            and not isinstance(each.type, click.Path | click.Choice)
        ):
            yield words, each.opts[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "option"),
    list(numbers()),
    ids=lambda given: given if isinstance(given, str) else " ".join(given),
)
def test_a_number_of_100_000_digits_is_refused_at_once(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, words: tuple[str, ...], option: str
) -> None:
    run = RunFolder.create(tmp_path, "run", {"configuration": Configuration().to_dict()}).path
    problems = {
        "train": ["digits"],
        "tune": ["digits"],
        "learn": ["digits"],
        "doctor": [str(run)],
        "runs": [str(tmp_path)],
    }
    given = problems.get(words[0], [str(run)])
    for text in ("9" * 100_000, "9" * 100_000 + "x"):
        began = time.process_time()
        code, _, error = called(capsys, *words, *given, f"{option}={text}")
        assert code in (0, 2, 6) and "Traceback" not in error, error[-1000:]
        assert time.process_time() - began < 3


@pytest.mark.parametrize(
    "form",
    ["rate {}x", "batch {}x", "batch {}x, rate {}x", "momentum {}", "hold {}%", "cool now {}x"],
)
def test_an_alternative_of_100_000_digits_is_refused_at_once(form: str) -> None:
    began = time.process_time()
    with pytest.raises(BadArgument):
        alternative_of(form.replace("{}", "9" * 100_000))
    assert time.process_time() - began < 1


@pytest.mark.parametrize(
    ("arguments", "nearest"),
    [
        (["train", "digits", "--optimizer", "adam"], 'got "adam" (did you mean adamw?).'),
        (["train", "digits", "--device", "gpu"], "try 'cuda'"),
        (["runs", "comapre"], "did you mean `gradiometer runs compare`?"),
    ],
)
def test_an_error_names_the_nearest_word(
    capsys: pytest.CaptureFixture[str], arguments: list[str], nearest: str
) -> None:
    code, _, error = called(capsys, *arguments)
    assert code == 2 and nearest in error


def test_a_watch_with_its_arguments_swapped_says_so() -> None:
    swapped = (
        "import torch; from gradiometer import watch; model = torch.nn.Linear(2, 1); "
        "watch(torch.optim.SGD(model.parameters(), lr=0.1), model)"
    )
    # in a process of its own, where no checker of types comes first
    ended = subprocess.run(
        [sys.executable, "-c", swapped], capture_output=True, text=True, check=False
    )
    assert "write watch(model, optimizer), the model first." in ended.stderr
