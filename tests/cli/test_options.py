"""Every option of `fork`, `Loop`, `tune`, `watch` and `train` changes a result, is refused, or is
listed as one that changes none.

The options are those of the signatures and of the parsers: a new one without a case is named.
"""

import inspect
import json
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gradiometer import supervised, watch
from gradiometer.cli import main
from gradiometer.cli.fork import fork as fork_command
from gradiometer.cli.train import train as train_command
from gradiometer.cli.tune import tune as tune_command
from gradiometer.errors import GradiometerError
from gradiometer.loop import Loop, fork
from gradiometer.run import Configuration, Run
from gradiometer.tuning import tune

SQUARED = supervised(nn.MSELoss(reduction="none"))
BY = torch.Generator().manual_seed(0)
INPUTS = torch.randn(64, 4, generator=BY)
TARGETS = INPUTS.sum(dim=1) + 0.1 * torch.randn(64, generator=BY)
DATA = INPUTS, TARGETS


def doubled(model: nn.Module, batch: Any) -> Tensor:
    return 2 * SQUARED(model, batch)


def small_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 1), nn.Flatten(0))


def half_step(model: nn.Module, optimizer: Any, batch: Any) -> Tensor:
    optimizer.zero_grad()
    loss = 0.5 * SQUARED(model, batch).mean()
    loss.backward()
    optimizer.step()
    return loss


class Scheduled:
    """A setting that is made for the optimizer of the loop."""

    def __init__(self, make: Callable[[torch.optim.Optimizer], Any]) -> None:
        self.make = make


FALLING = Scheduled(lambda optimizer: torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.8))


def forked(of_loop: Mapping[str, Any], of_fork: Mapping[str, Any]) -> Any:
    """What a fork of a small loop finds."""
    model = small_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    parts: dict[str, Any] = {
        "loss": SQUARED,
        "batches": DATA,
        "batch_size": 16,
        "left": "16 updates",
        **of_loop,
    }
    for name, value in parts.items():
        if isinstance(value, Scheduled):
            parts[name] = value.make(optimizer)
    settings = {"alternatives": "rate 2x", "horizon": "8 updates", "replicates": 2, **of_fork}
    given = {name: value for name, value in settings.items() if value is not DROPPED}
    found = fork(Loop(model, optimizer, **parts), **given)
    return [
        found.step,
        found.horizon,
        found.tail,
        found.left,
        [
            (
                one.alternative,
                one.replicate,
                one.updates,
                {k: v.mean for k, v in one.readouts.items()},
            )
            for one in found.results
        ],
        found.kept is None,
    ]


DROPPED = object()


def tuned(settings: Mapping[str, Any]) -> Any:
    """What a tuning of a small loop finds."""
    given: dict[str, Any] = {
        "loss": SQUARED,
        "batches": DATA,
        "batch_size": 16,
        "steps": 32,
        "momentum": 0.5,
        **settings,
    }
    model = given.pop("model", small_model())
    given = {name: value for name, value in given.items() if value is not DROPPED}
    found = tune(model, **given)
    rungs = [[(one.lane.rate, one.updates, one.loss) for one in rung] for rung in found.rungs]
    return [found.line, found.steps, found.learning_rate, rungs]


# Options that change no result, each with its reason.
NOTHING_OF_FORK = {
    "pool": "where branches are trained: the numbers are the same",
    "threads": "how many threads add up a sum: the numbers differ by rounding, if at all",
    "out": "where branches are kept",
    "begin": "is called with the plan",
    "progress": "is called with each result",
}
NOTHING_OF_TUNE = {
    "pool": NOTHING_OF_FORK["pool"],
    "threads": NOTHING_OF_FORK["threads"],
    "out": "where lanes are kept",
    "progress": "is called with a sentence",
}

# For each option: settings beside it, and the value that must change the result or be refused.
CASES_OF_FORK: dict[str, tuple[dict[str, Any], Any]] = {
    "loop": ({}, None),  # each argument of `Loop` has a case of its own
    "alternatives": ({}, "rate 3x"),
    "horizon": ({}, "12 updates"),
    "budget": ({"horizon": DROPPED, "replicates": DROPPED}, 6.0),
    "replicates": ({}, 3),
    "tail": ({}, "none"),
    "kept": ({"horizon": "end"}, False),
    "seed": ({}, 1),
}
CASES_OF_LOOP: dict[str, tuple[dict[str, Any], Any]] = {
    "model": ({}, None),  # the result is of this model
    "optimizer": ({}, None),
    "loss": ({}, doubled),
    "step": ({"loss": None, "evaluate": DATA}, half_step),
    "batches": ({}, (2 * INPUTS, TARGETS)),
    "batch_size": ({}, 8),
    "groups": ({}, 2),
    "evaluate": ({}, DATA),
    "scheduler": ({}, FALLING),
    "scheduler_each": ({"scheduler": FALLING}, "epoch"),
    "scaler": ({}, "a name that is refused"),
    "accumulation": ({}, 2),
    "left": ({}, "24 updates"),
    "index": ({}, 5),
    "readout_examples": ({}, 10),
}
CASES_OF_TUNE: dict[str, tuple[dict[str, Any], Any]] = {
    "model": ({}, nn.Sequential(nn.Linear(4, 1), nn.Flatten(0))),
    "loss": ({}, doubled),
    "batches": ({}, (2 * INPUTS, TARGETS)),
    "steps": ({}, 48),
    "batch_size": ({}, 8),
    "aim": ({"held_out": (INPUTS[:8], TARGETS[:8])}, "test"),
    "held_out": ({}, (INPUTS[:8], TARGETS[:8])),
    "budget": ({}, 3.0),
    "optimizer": ({}, "adamw"),
    "momentum": ({}, 0.9),
    "nesterov": ({}, False),
    "weight_decay": ({}, 0.3),
    "clip": ({}, 0.1),
    "seed": ({}, 1),
}


def parameters_of(function: Callable[..., Any]) -> set[str]:
    return set(inspect.signature(function).parameters)


def is_without_case(names: set[str], *tables: Mapping[str, Any]) -> set[str]:
    """Options that are in none of the tables, and entries of the tables that are no option."""
    listed = [name for table in tables for name in table]
    assert len(listed) == len(set(listed)), "an option is in two tables"
    return names ^ set(listed)


def test_every_option_of_a_fork_and_a_tuning_has_a_case_or_a_reason() -> None:
    assert not is_without_case(parameters_of(fork), CASES_OF_FORK, NOTHING_OF_FORK)
    assert not is_without_case(parameters_of(Loop), CASES_OF_LOOP)
    assert not is_without_case(parameters_of(tune), CASES_OF_TUNE, NOTHING_OF_TUNE)


def check_changes(
    end: Callable[[Mapping[str, Any]], Any], beside: dict[str, Any], name: str, value: Any
) -> None:
    """Raise unless the option changes what comes out, or is refused by its name."""
    try:
        before = end(beside)
    except GradiometerError as error:
        # what is beside it needs it
        assert f"`{name}`" in str(error) or name in str(error), error
        before = None
    try:
        after = end({**beside, name: value})
    except GradiometerError as error:
        assert f"`{name}`" in str(error), error
        return
    assert after != before, f"`{name}` is dropped in silence"


@pytest.mark.parametrize("name", [name for name in CASES_OF_FORK if name != "loop"])
def test_an_option_of_fork_changes_the_result(name: str) -> None:
    beside, value = CASES_OF_FORK[name]
    check_changes(lambda given: forked({}, given), beside, name, value)


@pytest.mark.parametrize(
    "name", [name for name in CASES_OF_LOOP if CASES_OF_LOOP[name][1] is not None]
)
def test_an_option_of_a_loop_changes_the_result(name: str) -> None:
    beside, value = CASES_OF_LOOP[name]
    check_changes(lambda given: forked(given, {}), beside, name, value)


@pytest.mark.parametrize("name", CASES_OF_TUNE)
def test_an_option_of_tune_changes_the_result(name: str) -> None:
    beside, value = CASES_OF_TUNE[name]
    check_changes(tuned, beside, name, value)


# `watch`


NOTHING_OF_WATCH = {
    "page": "whether a page is written at the end",
    "quiet": "whether lines are printed",
    "to": "where readings are sent besides",
}
CASES_OF_WATCH: dict[str, Any] = {
    "loss": doubled,
    "out": Path("elsewhere"),
    "name": "other",
    "sampling": "loader",
    "examples": 640,
    "replacement": True,
    "groups": 2,
    "batch_axis": 1,
    "probe": True,
    "accumulation": 2,
    "scaler": "a name that is refused",
    "budget": 0.5,
    "every": 2,
    "steps": 400,
    "trials": 0.9,
    "checkpoints": 2,
    "gauges": ["noise"],
    "parts": 4,
    "level": 0.5,
    "seed": 3,
}
OF_ANOTHER = {"model", "optimizer"}


def test_every_option_of_watch_has_a_case_or_a_reason() -> None:
    assert not is_without_case(parameters_of(watch) - OF_ANOTHER, CASES_OF_WATCH, NOTHING_OF_WATCH)


# `train` and the commands


NOTHING_OF_TRAIN = {
    "as_json": "prints the result as JSON",
    "no_open": "does not open the page",
    "fail_on": "chooses the exit code",
    "file": "is a file with the other settings",
    "settings": "has settings by name, each with a case",
    "threads": NOTHING_OF_FORK["threads"],
    "checkpoint_seconds": "how often the state is kept",
    "keep_checkpoints": "how many states are kept",
    "device": "where the training runs",
    "data_dir": "where data are looked for",
    "out": "where the run is kept",
    "name": "what the run is called",
}
# By name as in `--set name=value`, with what is set beside it.
CASES_OF_TRAIN: dict[str, tuple[list[str], str]] = {
    "problem": ([], "logistic-regression"),
    "model": ([], "mlp"),
    "learning_rate": ([], "0.001"),
    "schedule": ([], "linear"),
    "snapshots": ([], "2"),
    "cool": ([], "watch"),
    "cool_budget": (["cool=auto"], "0.5"),
    "batch_size": ([], "20"),
    "epochs": ([], "2"),
    "steps": ([], "30"),
    "optimizer": ([], "adamw"),
    "momentum": ([], "0.5"),
    "nesterov": (["momentum=0.5"], "yes"),
    "weight_decay": ([], "0.5"),
    "clip": ([], "0.01"),
    "fork_budget": ([], "3"),
    "sampling": ([], "replacement"),
    "held_out": ([], "0.5"),
    "accumulation": ([], "5"),
    "parts": ([], "5"),
    "probe": ([], "yes"),
    "budget": ([], "0.5"),
    "gauges": ([], "trajectory"),
    "check_edge": ([], "no"),
    "check_endpoint": (["problem=digits", "model=mlp", "budget=0.5"], "no"),
    "every": ([], "3"),
    "level": ([], "0.5"),
    "seed": ([], "4"),
    "checkpoint_at": ([], "10"),
}
# Options of the commands that are no settings of a training: in Python, or above.
OF_COMMANDS = {
    "tune": {"problem", "budget", "aim", "pool"},
    "train": {"tuning", "tune_budget"},
    "fork": {"run", "changes", "advice", "spike", "own", "at", "readout"},
}


def test_every_option_of_the_commands_has_a_case_or_a_reason() -> None:
    settings = {*CASES_OF_TRAIN, *NOTHING_OF_TRAIN}
    assert not is_without_case(
        {*Configuration.__struct_fields__}
        | {"as_json", "no_open", "fail_on", "file", "settings", "out", "name"},
        CASES_OF_TRAIN,
        NOTHING_OF_TRAIN,
    )
    for command, known in (
        (train_command, settings),
        (tune_command, settings | parameters_of(tune)),
        (fork_command, settings | parameters_of(fork)),
    ):
        names = {str(one.name) for one in command.params}
        assert not names - known - OF_COMMANDS[str(command.name)], command.name


def flat(value: Any, path: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, list):
        items = list(enumerate(value))
    else:
        return {path: value}
    return {key: one for name, part in items for key, one in flat(part, f"{path}/{name}").items()}


def content_of(run: Run) -> dict[str, Any]:
    """All that a run says but its settings, which name every option."""
    manifest = {k: v for k, v in run.manifest.items() if k not in ("configuration", "command")}
    lines = {
        name: [json.loads(line) for line in (run.path / name).read_text().splitlines()]
        for name in ("readings.jsonl", "events.jsonl")
    }
    files = sorted(
        one.relative_to(run.path).as_posix() for one in run.path.rglob("*") if one.is_file()
    )
    from gradiometer import diagnose

    said = [str(finding) for finding in diagnose(run).findings]
    return flat(
        {
            "manifest": manifest,
            **lines,
            "files": files,
            "said": said,
            "folder": run.path.name.split("-")[0],
        }
    )


def differs(one: dict[str, Any], base: dict[str, Any], again: dict[str, Any]) -> bool:
    """True beyond what differs between two runs with the same settings, such as times."""
    stable = {key for key in base.keys() & again.keys() if base[key] == again[key]}
    return any(one.get(key) != base[key] for key in stable) or bool(
        one.keys() - base.keys() - again.keys()
    )


@cache
def trained(beside: tuple[str, ...], folder: Path) -> dict[str, Any]:
    flags = [part for setting in beside for part in ("--set", setting)]
    with pytest.raises(SystemExit) as ended:
        main(["train", *flags, "--no-open", "--json", "--out", str(folder)])
    if ended.value.code:
        return {"refused": ended.value.code}
    newest = max(folder.iterdir(), key=lambda path: path.stat().st_mtime_ns)
    return content_of(Run.open(newest))


SMALL = ("problem=linear-regression", "epochs=1", "every=10", "budget=0.02")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES_OF_TRAIN)
def test_a_setting_of_train_changes_the_run(
    name: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more, value = CASES_OF_TRAIN[name]
    named = [one.partition("=")[0] for one in more]
    usual = [one for one in SMALL if one.partition("=")[0] not in named]
    beside = (*(one for one in usual if (name, one) != ("budget", "every=10")), *more)
    base, again = (
        trained(beside, folder / f"{name} base {place}" if more else folder / f"base {place}")
        for place in (0, 1)
    )
    assert "refused" not in base, beside
    capsys.readouterr()
    kept = tuple(one for one in beside if not one.startswith(f"{name}="))
    found = trained((*kept, f"{name}={value}"), folder / name)
    if "refused" in found:
        assert name.replace("_", "-") in capsys.readouterr().err.replace("_", "-")
        return
    assert differs(found, base, again), f"`{name}` is dropped in silence"


def watched(settings: Mapping[str, Any], out: Path) -> dict[str, Any]:
    """What the run of a small loop says."""
    model = small_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    data = torch.utils.data.TensorDataset(*DATA)
    loader = torch.utils.data.DataLoader(
        data, batch_size=16, shuffle=True, generator=torch.Generator().manual_seed(0)
    )
    given = {"out": out, "every": 5, "loss": SQUARED, **settings}
    if given.get("sampling") == "loader":
        given["sampling"] = loader
    if given["out"] == Path("elsewhere"):
        given["out"] = out / "elsewhere"
    torch.manual_seed(1)
    with watch(model, optimizer, page=False, quiet=True, **given) as w:
        for batch in (batch for _ in range(25) for batch in loader):
            optimizer.zero_grad()
            value = SQUARED(model, batch).mean()
            value.backward()
            w.step(value, batch)
            optimizer.step()
    run = w.run
    assert run is not None
    return {
        **content_of(run),
        "place": run.path.parent.name if "elsewhere" in str(run.path) else "",
    }


BESIDE_WATCH: dict[str, dict[str, Any]] = {
    "seed": {"gauges": ["batch_sharpness"]},
    "budget": {"every": None},
    "trials": {"sampling": "loader"},
    "checkpoints": {"sampling": "loader"},
    "replacement": {"examples": 640},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES_OF_WATCH)
def test_an_option_of_watch_changes_the_run(name: str, tmp_path: Path) -> None:
    beside, value = BESIDE_WATCH.get(name, {}), CASES_OF_WATCH[name]
    base, again = (watched(beside, tmp_path / str(place)) for place in (0, 1))
    try:
        found = watched({**beside, name: value}, tmp_path / "changed")
    except GradiometerError as error:
        assert f"`{name}`" in str(error), error
        return
    assert differs(found, base, again), f"`{name}` is dropped in silence"
