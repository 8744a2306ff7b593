"""Problems by name: what comes with the package, a user's own, and a sentence for each way it can
fail."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from gradiometer import BadArgument, UserCodeFailed
from gradiometer.measurement import Objective
from gradiometer.problems import load
from gradiometer.problems.registry import KNOWN, NAMES

HERE_TOO = """
import random
import numpy as np
import torch
from torch import nn
from gradiometer import supervised
from gradiometer.problems import Examples, Problem

LOSS = supervised(nn.CrossEntropyLoss(reduction="none"))
NOT_CALLABLE = 3

def data(count=10):
    return torch.randn(count, 3), torch.arange(count) % 2

def whole(seed, model="wide"):
    return Problem("mine", lambda: nn.Linear(3, 2), LOSS, Examples(data()), model_name=f"{model} {seed}")

def triple():
    return nn.Linear(3, 2), LOSS, data()

def quadruple():
    return (lambda: nn.Linear(3, 2)), LOSS, torch.utils.data.TensorDataset(*data()), data(4)

def without_test(**settings):
    return (lambda: nn.Linear(3, 2)), LOSS, data(), None

def raises():
    raise KeyError("no such column")

def leaves():
    raise SystemExit(2)

def refuses():
    return nn.Linear(3, 2), nn.CrossEntropyLoss(), data()

def wrong():
    return {"model": 1}

def pair():
    return nn.Linear(3, 2), LOSS

def asks(path):
    return triple()

def positional_only(seed, /):
    return triple()
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with modules of the user's own."""
    (tmp_path / "here_too.py").write_text(HERE_TOO)
    (tmp_path / "broken.py").write_text("import no_such_library\n")
    (tmp_path / "torn.py").write_text("def problem(:\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    for name in ("here_too", "broken", "torn"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    ("name", "model"), [(name, model) for name in NAMES for model in KNOWN[name].models]
)
def test_every_problem_trains_with_every_one_of_its_models(name: str, model: str) -> None:
    if name == "fashion-mnist" and not Path("/usr/share/datasets/fashion-mnist").is_dir():
        pytest.skip("Debian's dataset-fashion-mnist is not installed")
    problem = load(name, model=model)
    assert (problem.name, problem.model_name) == (name, model)
    torch.manual_seed(0)
    objective = Objective(problem.model(), problem.loss)
    batch = problem.train.batch(torch.arange(8))
    assert problem.loss(objective.model, batch).shape == (8,)
    assert sum(float(gradient.norm()) for gradient in objective.gradient(batch)) > 0
    assert objective.traits(batch).fixed
    if problem.correct is not None:
        assert problem.correct(objective.model, batch).dtype == torch.bool


def test_the_seed_is_of_the_data_that_are_drawn() -> None:
    assert load("quadratic", seed=1).fingerprint == load("quadratic", seed=1).fingerprint
    assert load("quadratic", seed=1).fingerprint != load("quadratic", seed=2).fingerprint
    assert load("digits", seed=1).fingerprint == load("digits", seed=2).fingerprint


def test_a_function_is_given_what_it_takes(folder: Path) -> None:
    assert load("here_too:whole", seed=4).model_name == "wide 4"
    assert load("here_too:whole", model="deep").model_name == "deep 0"


def test_a_tuple_makes_a_problem(folder: Path) -> None:
    problem = load("here_too:triple")
    assert (problem.name, problem.model_name, len(problem.train)) == (
        "here_too:triple",
        "Linear",
        10,
    )
    first, second = problem.model(), problem.model()
    assert first is not second
    assert torch.equal(first.weight, second.weight)
    assert len(load("here_too:quadruple").test or ()) == 4
    assert load("here_too:without_test").test is None


def test_a_function_draws_from_its_seed_and_leaves_random_states_alone(folder: Path) -> None:
    before = torch.get_rng_state()
    assert (
        load("here_too:triple", seed=1).fingerprint == load("here_too:triple", seed=1).fingerprint
    )
    assert (
        load("here_too:triple", seed=1).fingerprint != load("here_too:triple", seed=2).fingerprint
    )
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        (
            "fashion_mnst",
            {},
            "`problem` 'fashion_mnst' is unknown: did you mean fashion-mnist?.*digits.*module:func",
        ),
        ("", {}, "`problem` '' is unknown"),
        (
            "digits",
            {"model": "cn"},
            "`model` 'cn' is not a model of digits: did you mean cnn\\? Available: mlp, cnn",
        ),
        (
            "quadratic",
            {"model": "mlp"},
            "`model` 'mlp' is not a model of quadratic: available: position",
        ),
        ("digits", {"data_dir": "/data"}, "`data_dir` is not used by digits"),
        (
            "here_too.py:triple",
            {},
            "form module:function, got 'here_too.py:triple': write here_too:triple",
        ),
        ("here_too:", {}, "`problem` must have the form module:function, got 'here_too:'"),
        (":triple", {}, "must have the form module:function"),
        ("no_such.module:problem", {}, "no module `no_such`, neither installed nor in "),
        ("here_too.sub:problem", {}, "here_too.sub"),
        (
            "broken:problem",
            {},
            "importing `broken` raised ModuleNotFoundError: No module named 'no_such_library'",
        ),
        ("torn:problem", {}, "importing `torn` raised SyntaxError"),
        ("here_too:tripel", {}, "`here_too` has no function 'tripel': did you mean triple\\?"),
        (
            "here_too:NOT_CALLABLE",
            {},
            "`here_too:NOT_CALLABLE` must be a function that returns a problem, got int",
        ),
        ("here_too:raises", {}, "`here_too:raises` raised KeyError: 'no such column'"),
        ("here_too:leaves", {}, "`here_too:leaves` raised SystemExit: 2"),
        ("here_too:refuses", {}, "supervised"),
        ("here_too:wrong", {}, "`here_too:wrong` returned dict: return a Problem, or"),
        ("here_too:pair", {}, "`here_too:pair` returned a tuple of 2"),
        ("here_too:asks", {}, "`here_too:asks` has an unknown argument 'path'"),
        ("here_too:positional_only", {}, "unknown argument 'seed'"),
        (
            "here_too:triple",
            {"model": "wide"},
            "`model` was given, but `here_too:triple` takes no such argument",
        ),
    ],
)
def test_each_failure_is_one_sentence_that_names_it(
    folder: Path, name: str, settings: dict, message: str
) -> None:
    with pytest.raises(
        UserCodeFailed if re.search(" raised | returned ", message) else BadArgument, match=message
    ) as caught:
        load(name, **settings)
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith(".")


def test_names_are_listed_without_torch() -> None:
    code = (
        "import sys; from gradiometer.problems.registry import NAMES; assert 'torch' not in "
        "sys.modules; print(*NAMES)"
    )
    listed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=_environment()
    )
    assert listed.stdout.split() == list(NAMES)


def test_a_model_that_is_made_already_is_copied_for_each_run(folder: Path) -> None:
    problem = load("here_too:triple")
    first = problem.model()
    with torch.no_grad():
        first.weight.zero_()
    assert isinstance(first, nn.Linear)
    assert problem.model().weight.abs().sum() > 0


def _environment() -> dict[str, str]:
    source = Path(__file__).parents[2] / "src"
    return {"PYTHONPATH": str(source), "PATH": "/usr/bin"}
