"""Whatever the user's code raises, and whenever, is the user's: a sentence with the line, exit code
2, no traceback."""

import shutil
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

import gradiometer
from command_line import called
from gradiometer import UserCodeFailed, supervised
from gradiometer.loop import Custom, Loop, fork
from gradiometer.tuning import tune

PROBLEM = r"""
from dataclasses import dataclass
import torch
from torch import nn
from torch.utils.data import Dataset
from gradiometer import Estimate, Gauge, Issue
from gradiometer.problems import Examples, Problem

fails, counts = ("", 0), {}

def count(site):
    counts[site] = counts.get(site, 0) + 1
    if fails[0] == site and counts[site] >= fails[1]:
        raise RuntimeError(f"\x1b[31menough of {site}\x1b[0m\x07")

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        count("model")
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))

    def forward(self, x):
        count("forward")
        return self.layers(x)

def loss(model, batch):
    count("loss")
    x, y = batch
    return nn.functional.cross_entropy(model(x), y, reduction="none")

def correct(model, batch):
    count("correct")
    return model(batch[0]).argmax(1) == batch[1]

class Rows(Dataset):
    def __init__(self, x, y):
        self.x, self.y = x, y

    def __len__(self):
        return len(self.x)

    def __getitem__(self, place):
        count("data")
        return self.x[place], self.y[place]

@dataclass(frozen=True)
class Own(Gauge):
    name, issue, unit, needs_loss = "own", Issue.ESTIMATION, "", False

    def measure(self, step):
        count("measure")
        return {"mean": 1.0}

    def estimate(self, series, level=0.9):
        count("estimate")
        return {"own": Estimate.exact(1.0)}

    def judge(self, estimates, run=None):
        count("judge")

def problem():
    count("problem")
    x = torch.randn(464, 4, generator=torch.Generator().manual_seed(0))
    y = (x[:, 0] > 0).long() + (x[:, 1] > 0).long()
    train, test = Examples(Rows(x[:64], y[:64])), Examples((x[64:], y[64:]))
    return Problem(name="raises", model=Net, loss=loss, train=train, test=test, correct=correct)
"""
QUIET = ("--no-open",)
RUN = "runs/base-1"
STOPPED = "runs/stopped-1"
# with readings of a gauge of the user
GAUGED = "runs/gauged-1"
# at a rate so low that a finding advises a higher one
ADVISED = "runs/advised-1"
"""The same run, as it was after its last checkpoint but one."""
COMMANDS: dict[str, tuple[str, ...]] = {
    "train": ("train", "raising:problem", "--steps", "24", "--every", "4", *QUIET),
    "train --tune": ("train", "raising:problem", "--steps", "24", "--tune", *QUIET),
    "train --cool": ("train", "raising:problem", "--steps", "40", "--cool", "auto", *QUIET),
    "tune": ("tune", "raising:problem", "--steps", "200", "--optimizer", "sgd,adamw"),
    "certify": ("measure", "certificate", RUN, "--examples", "64", "--batches", "8"),
    "sharpness": ("measure", "sharpness", RUN, "--examples", "64", "--top", "1", "--probes", "4"),
    "ensemble": ("ensemble", RUN, "--points", "3"),
    "fork": ("fork", RUN, "--at", "12", "rate 2x", "--horizon", "8 updates", "--replicates", "2"),
    "batch": ("measure", "batch", "raising:problem", "--steps", "200", "--seconds", "0.1"),
    "fork --budget": ("fork", RUN, "--at", "4", "rate 2x", "--budget", "3"),
    "train fork_budget": (
        "train",
        "raising:problem",
        "--steps",
        "40",
        "--set",
        "fork_budget=1",
        *QUIET,
    ),
    "sample": ("learn", "sample", RUN, "--steps", "96", "--burn-in", "10"),
    "resume": ("resume", STOPPED, *QUIET),
    "fork --advice": ("fork", ADVISED, "--advice"),
    "tune --aim test": ("tune", "raising:problem", "--steps", "60", "--aim", "test"),
    "fork --horizon end": (
        *("fork", RUN, "--at", "12", "rate 2x", "--horizon", "end", "--replicates", "2"),
    ),
    "ensemble --export": ("ensemble", RUN, "--points", "0", "--export", "ensemble.pt2"),
    "sharpness of a problem": (
        *("measure", "sharpness", "raising:problem", "--examples", "64", "--top", "1"),
    ),
    "sample of a problem": (
        *("learn", "sample", "raising:problem", "--steps", "96", "--burn-in", "4"),
        *("--chains", "1"),
    ),
    "own gauge": (
        *("train", "raising:problem", "--steps", "24", "--every", "4"),
        *("--gauges", "noise,raising:Own", *QUIET),
    ),
    "show --gauge": ("show", GAUGED, "--gauge", "raising:Own", *QUIET),
}
SITES = ("problem", "model", "forward", "loss", "correct", "data")
OWN = {"own gauge": ("measure", "estimate", "judge"), "show --gauge": ("estimate", "judge")}
EVERY = [(command, site) for command in COMMANDS for site in OWN.get(command, SITES)]
FEW = ("problem", "model", "estimate", "judge")  # sites that are called a few times only
SEVERAL = (1, 40, 170)  # the first call, one in the middle, and one of the last; by night every one


@pytest.fixture(scope="module")
def module(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The user's module, in a folder with a run of its problem."""
    folder = tmp_path_factory.mktemp("raises")
    (folder / "raising.py").write_text(PROBLEM)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(str(folder))
        yield import_module("raising")
    del sys.modules["raising"]


def fails_at(module: Any, site: str, number: int) -> None:
    module.counts.clear()
    module.fails = (site, number)


def stop_after_step_12() -> None:
    """Put the run that was stopped where it was."""
    shutil.rmtree(STOPPED, ignore_errors=True)
    shutil.copytree(RUN, STOPPED)
    for newest in Path(STOPPED, "checkpoints").glob("step_*24"):
        shutil.rmtree(newest)
    events = Path(STOPPED, "events.jsonl")
    lines = events.read_text().splitlines(keepends=True)
    events.write_text("".join(line for line in lines if '"finished"' not in line))


def check(
    module: Any,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    site: str,
    number: int,
) -> bool:
    """The n-th call of a site raises in a command. Returns False if there are fewer."""
    if not Path(RUN).exists():
        fails_at(module, "", 0)
        flags = (
            "--steps",
            "24",
            "--every",
            "4",
            "--snapshots",
            "3",
            "--set",
            "checkpoint_at=12",
            "--name",
            "base",
        )
        assert called(capsys, "train", "raising:problem", *flags, *QUIET)[0] == 0
    if ADVISED in arguments and not Path(ADVISED).exists():
        fails_at(module, "", 0)
        flags = ("--steps", "60", "--lr", "0.005", "--name", "advised")
        assert called(capsys, "train", "raising:problem", *flags, *QUIET)[0] == 0
    if GAUGED in arguments and not Path(GAUGED).exists():
        fails_at(module, "", 0)
        gauged = (*COMMANDS["own gauge"], "--name", "gauged")
        assert called(capsys, *gauged)[0] == 0
    if STOPPED in arguments:
        stop_after_step_12()
    fails_at(module, site, number)
    code, out, error = called(capsys, *arguments)
    label = f"{arguments[0]}, {site} {number}: {error}"
    assert code in (0, 2), label
    assert "bug in gradiometer" not in error and "Traceback" not in error, label
    assert "\x1b[31m" not in out + error and "\x07" not in out + error, label
    if code == 2:
        assert f"enough of {site}" in error and "raising.py:" in error, label
        assert r"\x1b[31m" in error, label
    return bool(module.counts.get(site, 0) >= number)


@pytest.mark.parametrize(
    ("command", "site"),
    [(command, site) for command in COMMANDS for site in OWN.get(command, ("forward", "loss"))],
)
def test_what_raises_at_some_call_is_the_users(
    module: Any, capsys: pytest.CaptureFixture[str], command: str, site: str
) -> None:
    check(module, capsys, COMMANDS[command], site, 2 if site in FEW else 8)


@pytest.mark.slow
@pytest.mark.parametrize(("command", "site"), EVERY)
def test_what_raises_at_several_calls_is_the_users(
    module: Any, capsys: pytest.CaptureFixture[str], command: str, site: str
) -> None:
    for number in SEVERAL if site not in FEW else (1, 2, 3):
        check(module, capsys, COMMANDS[command], site, number)


@pytest.mark.nightly
@pytest.mark.parametrize(("command", "site"), EVERY)
def test_what_raises_at_any_call_is_the_users(
    module: Any, capsys: pytest.CaptureFixture[str], command: str, site: str
) -> None:
    number = 1
    while check(module, capsys, COMMANDS[command], site, number):
        # every call, and from the hundredth on calls 5 % apart: a tuning makes thousands
        number += max(1, number // 20) if number >= 100 else 1


class Raises(nn.Module):
    """Raises at the n-th forward and later ones, in all copies of it together."""

    left = 0

    def __init__(self, number: int) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)
        Raises.left = number

    def forward(self, inputs: Tensor) -> Tensor:
        Raises.left -= 1
        if Raises.left < 0:
            raise ValueError("no more")
        output: Tensor = self.layer(inputs)
        return output


CRITERION = supervised(nn.CrossEntropyLoss(reduction="none"))
INPUTS = torch.randn(96, 4, generator=torch.Generator().manual_seed(0))
LABELS = (INPUTS[:, 0] > 0).long()


def tuned(model: nn.Module) -> object:
    def optimizer(parameters: Any, rate: float) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameters, lr=rate)

    batches = (INPUTS, LABELS)
    return tune(
        model, loss=CRITERION, batches=batches, batch_size=16, optimizer=optimizer, steps=100
    )


def forked(model: nn.Module) -> object:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loop = Loop(model, optimizer, loss=CRITERION, batches=(INPUTS, LABELS), batch_size=16)
    return fork(loop, ["rate 2x"], horizon="10 updates", replicates=2)


@pytest.mark.parametrize("number", [0, 1, 2, 3, 5, 8, 13, 21, 34])
@pytest.mark.parametrize("work", [tuned, forked])
def test_a_library_call_says_that_the_model_raised(
    work: Callable[[nn.Module], object], number: int
) -> None:
    with pytest.raises(
        UserCodeFailed, match=r"ValueError: no more, at test_user_code_raises.py:\d+"
    ):
        work(Raises(number))


class Counted:
    """Counts the calls of one part of the user's code, and raises from the n-th on."""

    site, left = "", 0

    @classmethod
    def of(cls, site: str) -> None:
        cls.left -= site == cls.site
        if site == cls.site and cls.left < 0:
            raise ValueError(f"no more of {site}")


class CountedSGD(torch.optim.SGD):
    def step(self, closure: Any = None) -> Any:
        Counted.of("step")
        return super().step(closure)

    def zero_grad(self, set_to_none: bool = True) -> None:
        Counted.of("zero_grad")
        super().zero_grad(set_to_none)

    def state_dict(self) -> Any:
        Counted.of("state_dict")
        return super().state_dict()


class CountedRows(Dataset[Any]):
    def __len__(self) -> int:
        return len(INPUTS)

    def __getitem__(self, place: int) -> Any:
        Counted.of("item")
        return INPUTS[place], LABELS[place]


def evaluated(model: nn.Module) -> dict[str, float]:
    Counted.of("evaluate")
    return {"mine": float(CRITERION(model, (INPUTS, LABELS)).mean())}


def decay(step: int) -> float:
    Counted.of("scheduler")
    return 1 / (1 + step / 50)


def change(*_: Any) -> None:
    Counted.of("change")


def own_step(model: nn.Module, optimizer: torch.optim.Optimizer, batch: Any) -> Tensor:
    Counted.of("own step")
    optimizer.zero_grad()
    value = CRITERION(model, batch).mean()
    value.backward()
    optimizer.step()
    return value


def orders(seed: int) -> Iterator[Any]:
    while True:
        Counted.of("batches")
        yield INPUTS[:16], LABELS[:16]


def fork_of_all_parts() -> None:
    model = nn.Linear(4, 2)
    optimizer = CountedSGD(model.parameters(), lr=0.1)
    loop = Loop(
        model,
        optimizer,
        loss=CRITERION,
        batches=CountedRows(),
        batch_size=16,
        evaluate=evaluated,
        scheduler=torch.optim.lr_scheduler.LambdaLR(optimizer, decay),
    )
    fork(loop, [Custom("mine", change)], horizon="8 updates", replicates=2)


def fork_of_a_step() -> None:
    model = nn.Linear(4, 2)
    loop = Loop(
        model,
        torch.optim.SGD(model.parameters(), lr=0.1),
        step=own_step,
        batches=orders,
        evaluate=evaluated,
    )
    fork(loop, ["rate 2x"], horizon="8 updates", replicates=2)


def tune_of_all_parts() -> None:
    def optimizer(parameters: Any, rate: float) -> torch.optim.Optimizer:
        Counted.of("optimizer")
        return CountedSGD(parameters, lr=rate)

    tune(
        nn.Linear(4, 2),
        loss=CRITERION,
        batches=CountedRows(),
        batch_size=16,
        optimizer=optimizer,
        steps=60,
    )


PARTS = [
    *(
        (fork_of_all_parts, site)
        for site in ("step", "zero_grad", "state_dict", "item", "evaluate", "scheduler")
    ),
    *((fork_of_a_step, site) for site in ("own step", "batches", "evaluate")),
    *(
        (tune_of_all_parts, site)
        for site in ("optimizer", "step", "zero_grad", "state_dict", "item")
    ),
    (fork_of_all_parts, "change"),
]


def check_part(work: Callable[[], object], site: str, number: int) -> bool:
    """The n-th call of a part raises. Returns False if there are fewer."""
    Counted.site, Counted.left = site, number
    if site == "scheduler":
        Counted.left += 1  # torch calls it first, while the user makes the scheduler
    try:
        work()
    except UserCodeFailed as error:
        assert f"ValueError: no more of {site}, at test_user_code_raises.py:" in str(error), (
            f"{number}: {error}"
        )
        return True
    return False


@pytest.mark.parametrize(("work", "site"), PARTS)
def test_a_part_of_a_loop_that_raises_is_the_users(work: Callable[[], object], site: str) -> None:
    assert check_part(work, site, 0) and check_part(work, site, 1)


@pytest.mark.nightly
@pytest.mark.parametrize(("work", "site"), PARTS)
def test_a_part_of_a_loop_that_raises_at_any_call_is_the_users(
    work: Callable[[], object], site: str
) -> None:
    assert all(check_part(work, site, number) for number in range(2))
    for number in range(2, 200):
        if not check_part(work, site, number):
            break


@pytest.mark.parametrize("number", [0, 1, 2, 3, 5, 8, 13, 21, 34])
def test_a_watched_loop_goes_on_when_measuring_raises(number: int, tmp_path: Path) -> None:
    """The loss that measuring calls raises; training uses its own forward. Before the first update
    it is refused."""
    left = number

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        nonlocal left
        left -= 1
        if left < 0:
            raise ValueError("\x1b[31mno more")
        return CRITERION(model, batch)

    model = nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watched = gradiometer.watch(
        model, optimizer, loss=loss, out=tmp_path, every=2, budget=0.5, page=False
    )
    updates = 0
    try:
        with watched:
            for step in range(40):
                batch = INPUTS[step : step + 16], LABELS[step : step + 16]
                optimizer.zero_grad()
                value = CRITERION(model, batch).mean()
                value.backward()
                watched.step(value, batch)
                optimizer.step()
                updates += 1
    except UserCodeFailed as error:
        assert updates == 0 and r"ValueError: \x1b[31mno more, at test_user_code_raises.py:" in str(
            error
        )
    else:
        assert updates == 40 and watched.run is not None
        assert not any("\x1b" in text for text in watched.run.warnings)
