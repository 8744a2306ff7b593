"""Every system call of a command on files fails once: an exit code, a sentence, and nothing that
was there is lost."""

import errno
import io
import re
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple

import pytest
from faults import ERRORS
from system_calls import can_trace, places, traced

from gradiometer.cli import main
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
    return re.sub(r"\d+ s\b", "", text)


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
