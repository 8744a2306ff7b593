"""Every system call of a command on files fails once: an exit code, a sentence, and nothing that
was there is lost."""

import errno
import io
import random
import re
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from faults import ERRORS
from system_calls import Traced, can_trace, places, traced
from works import INPUTS, LABELS, branches, watched_loop

from gradiometer import GradiometerError, Run
from gradiometer.cli import main
from gradiometer.integrations.watch import Watch
from report_run import run_in

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not can_trace(), reason="strace is missing, or may not trace here"),
]


class Said(NamedTuple):
    """What a command said, and its exit code."""

    code: object
    out: str
    err: str


def command(*arguments: str) -> tuple[Callable[[], None], Callable[[], Said]]:
    """A command as an action, and a function that returns what it said."""
    said: list[Said] = []

    def act() -> None:
        with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
            try:
                main([*arguments])
            except SystemExit as ended:
                said.append(Said(ended.code, out.getvalue(), err.getvalue()))

    return act, lambda: said[-1]


def without_ages(text: str) -> str:
    """The text without ages and the width of their column."""
    return re.sub(" +", " ", re.sub(r"\d+ s\b", "", text))


@pytest.mark.nightly
@pytest.mark.page
@pytest.mark.parametrize("verb", ["show", "runs", "export", "schedule"])
def test_every_system_call_of_a_command_fails_once(
    verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = run_in(tmp_path / "runs", steps=60).path
    given = {
        "show": ("show", str(run), "--no-open"),
        "runs": ("runs", "runs"),
        "export": ("runs", "export", str(run), "--out", "table.csv"),
        "schedule": ("learn", "schedule", "1/t"),
    }
    act, said = command(*given[verb])
    act()
    whole, files = (
        said(),
        {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()},
    )
    assert whole.code == 0
    for place, (name, number) in enumerate(places(traced(act).calls)):
        word = errno.errorcode[ERRORS[place % len(ERRORS)]]
        found = traced(act, said, f"{name}:error={word}:when={number}")
        label, (code, out, err) = f"call {place}, {found.changed}", found.told
        assert len(found.changed) == 1 and found.error is None, (label, found.error)
        assert code in (0, 2, 6) and "Traceback" not in err, f"{label}: exit {code}: {err}"
        named = err.strip().endswith(".")
        assert named or (code == 0 and without_ages(out) == without_ages(whole.out)), (
            f"{label}: {code}: {out} {err}"
        )
        for path, content in files.items():
            assert path.read_bytes() == content or path.suffix in (".html", ".csv"), (label, path)


SHARES = [
    pytest.param(6, id="some"),
    pytest.param(None, id="each kind", marks=pytest.mark.nightly),
]
"""How many of the calls fail, each in its turn, on fresh ground: a tuning makes 9,300 of 160 kinds,
of each of which one fails by night."""


def failed(
    prepare: Callable[[], Callable[[], object]], tell: Callable[[], Any], share: int | None
) -> Iterator[tuple[str, Traced]]:
    """Fail calls of an action, each once. The action is prepared anew for each."""
    prepare()()  # imports
    whole = traced(prepare())
    calls = [*enumerate(places(whole.calls))]
    if share is None:
        kinds: dict[str, list[int]] = {}
        for place, kind in enumerate(whole.kinds):
            kinds.setdefault(kind, []).append(place)
        chosen = [calls[random.Random(kind).choice(found)] for kind, found in kinds.items()]
    else:
        chosen = random.Random(share).sample(calls, share)
    for place, (name, number) in chosen:
        word = errno.errorcode[ERRORS[place % len(ERRORS)]]
        found = traced(prepare(), tell, f"{name}:error={word}:when={number}")
        # in a second undisturbed process the number of calls may differ a little
        if found.changed:
            yield f"call {place}, {found.changed}", found


COMMANDS = {
    "tune": ("tune", "quadratic", "--steps", "24", "--budget", "2", "--json"),
    "fork": ("fork", "runs/run-1", "rate 2x", "--horizon", "2 updates", "--replicates", "2"),
}


@pytest.mark.page
@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("verb", COMMANDS)
def test_work_whose_system_call_fails_says_so_and_goes_on(
    verb: str, share: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same command then comes to the same branches."""
    act, said = command(*COMMANDS[verb])
    grounds: list[Path] = []

    def prepare() -> Callable[[], None]:
        grounds.append(tmp_path / str(len(grounds)))
        grounds[-1].mkdir()
        monkeypatch.chdir(grounds[-1])
        if verb == "fork":
            train = ("train", "quadratic", "--steps", "24", "--every", "8", "--name", "run")
            assert command_code(*train, "--no-open") == 0
        return act

    prepare()()
    whole = branches(grounds[-1])
    assert said().code == 0 and whole
    for label, found in failed(prepare, said, share):
        assert found.error is None, (label, found.error)
        code, _, err = found.told
        assert code in (0, 2, 5, 6) and "Traceback" not in err, f"{label}: exit {code}: {err}"
        assert code == 0 or err.strip().endswith("."), f"{label}: {code}: {err}"
        assert command_code(*COMMANDS[verb]) == 0, label
        assert branches(grounds[-1]) == whole, label


def command_code(*arguments: str) -> object:
    act, said = command(*arguments)
    act()
    return said().code


@pytest.mark.page
@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("asks", [False, True], ids=["watch", "w.fork"])
def test_training_does_not_notice_a_system_call_that_fails(
    asks: bool, share: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the first update it may be refused; later the loop ends with the same bits."""
    grounds: list[Path] = []
    refusals: list[str] = []

    def ask(watched: Watch, step: int) -> None:
        if step == 10 and asks:
            try:
                watched.fork(
                    batches=(INPUTS, LABELS),
                    batch_size=16,
                    alternatives=["rate 2x"],
                    horizon="2 updates",
                    replicates=2,
                )
            except GradiometerError as error:
                refusals.append(str(error))

    def train() -> None:
        refusals.clear()
        # the checkpoint of the person is written at the end, and read back by the test
        watched_loop(20, asked=ask, page=False)

    def prepare() -> Callable[[], None]:
        grounds.append(tmp_path / str(len(grounds)))
        grounds[-1].mkdir()
        monkeypatch.chdir(grounds[-1])
        return train

    prepare()()
    whole = torch.load("kept.pt")["model"]
    losses = Run.open("runs/loop-1").losses[1].tolist()
    for label, found in failed(prepare, lambda: [*refusals], share):
        error, saved = found.error, Path("kept.pt")
        if ".kept.partial" in label or "kept.pt" in label:
            continue  # of the person's own checkpoint
        if error is not None:
            assert isinstance(error, GradiometerError), (label, error, error.__notes__)
            assert str(error).endswith(".") and not saved.exists(), (label, error)
            continue
        assert all(text.endswith(".") for text in found.told), (label, found.told)
        ends = torch.load(saved)["model"]
        assert all(torch.equal(ends[name], whole[name]) for name in whole), label
        for path in Path("runs").glob("loop-*/run.toml"):
            run = Run.open(path.parent)
            for step, value in zip(*run.losses, strict=True):
                assert losses[step] == value, label
