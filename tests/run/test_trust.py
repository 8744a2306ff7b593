"""In a run of somebody else, nothing is imported or called unless it is trusted: no command makes
the canary file."""

import importlib
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from command_line import called
from gradiometer import BadArgument, Run
from gradiometer.run import Configuration, trusting
from gradiometer.run.folder import RunFolder
from gradiometer.train import resume

MODULE = """
from pathlib import Path
import torch
from torch import nn

Path("canary").touch()

def loss(model, batch):
    inputs, labels = batch
    return nn.functional.cross_entropy(model(inputs), labels, reduction="none")

def problem():
    Path("canary").touch()
    inputs = torch.randn(400, 4, generator=torch.Generator().manual_seed(0))
    labels = (inputs[:, 0] > 0).long()
    return nn.Linear(4, 2), loss, (inputs[:100], labels[:100]), (inputs[100:], labels[100:])
"""
RUN = "runs/owned-1"
COMMANDS = {
    "fork": ("fork", RUN, "rate 2x", "--horizon", "8 updates", "--replicates", "2"),
    "fork --spike": ("fork", RUN, "--spike", "10"),
    "certify": ("measure", "certificate", RUN, "--examples", "64", "--batches", "8"),
    "sharpness": ("measure", "sharpness", RUN, "--examples", "64", "--top", "1", "--probes", "4"),
    "ensemble": ("ensemble", RUN, "--points", "0"),
    "batch": ("measure", "batch", RUN),
    "sample": ("learn", "sample", RUN, "--steps", "96", "--burn-in", "10"),
    "resume": ("resume", "runs/stopped-1", "--no-open"),
    "fork --budget": ("fork", RUN, "rate 2x", "--budget", "1"),
    "fork --horizon end": ("fork", RUN, "rate 2x", "--horizon", "end"),
    "ensemble --against": ("ensemble", RUN, "--points", "0", "--against", "runs/stopped-1"),
    "ensemble --export": ("ensemble", RUN, "--points", "0", "--export", "ensemble.pt2"),
}
LOOKS = (
    ("show", RUN),
    ("runs",),
    ("runs", "compare", RUN, "runs/stopped-1"),
    ("runs", "export", RUN, "--out", "table.csv"),
    ("runs", "list", "runs", "--page", "runs.html"),
    ("show", RUN, "--png", "charts"),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a module, a run of it that has ended, and one that was stopped."""
    made = tmp_path_factory.mktemp("foreign")
    (made / "owned.py").write_text(MODULE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(made)
        patch.syspath_prepend(str(made))
        flags = (
            "--steps",
            "24",
            "--every",
            "4",
            "--snapshots",
            "3",
            "--set",
            "checkpoint_at=12",
            "--no-open",
        )
        from gradiometer.cli import main

        for name in ("owned", "stopped"):
            with pytest.raises(SystemExit) as ended:
                main(["train", "owned:problem", "--name", name, *flags])
            assert ended.value.code == 0
        events = made / "runs/stopped-1/events.jsonl"
        events.write_text(
            "".join(
                line
                for line in events.read_text().splitlines(keepends=True)
                if '"finished"' not in line
            )
        )
        yield made


@pytest.fixture
def foreign(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The folder, on the machine of somebody else."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    sys.modules.pop("owned", None)
    (folder / "canary").unlink(missing_ok=True)
    return folder


@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_imports_the_code_of_a_foreign_run(
    foreign: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    code, _, error = called(capsys, *COMMANDS[command])
    assert (
        code == 2
        and "would import 'owned' and call problem()" in error
        and "gradiometer --trust" in error
    )
    assert not (foreign / "canary").exists() and "owned" not in sys.modules


@pytest.mark.parametrize("arguments", [("fork", RUN, "--advice"), ("doctor", RUN)], ids=" ".join)
def test_what_is_refused_for_another_reason_imports_nothing_either(
    foreign: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    assert called(capsys, *arguments)[0] == 2
    assert not (foreign / "canary").exists() and "owned" not in sys.modules


@pytest.mark.parametrize("arguments", LOOKS, ids=" ".join)
def test_looking_at_a_foreign_run_that_names_gauges_imports_nothing(
    foreign: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    manifests = [foreign / name / "run.toml" for name in (RUN, "runs/stopped-1")]
    before = [each.read_text() for each in manifests]
    for path, text in zip(manifests, before, strict=True):
        path.write_text(text.replace('gauges = "', 'gauges = "owned:Gauge,', 1))
    try:
        code, _, error = called(capsys, *arguments)
    finally:
        for path, text in zip(manifests, before, strict=True):
            path.write_text(text)
    assert code in (0, 2) and "Traceback" not in error, error
    assert not (foreign / "canary").exists() and "owned" not in sys.modules


@pytest.mark.parametrize("arguments", LOOKS, ids=" ".join)
def test_looking_at_a_foreign_run_imports_nothing(
    foreign: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    code, _, error = called(capsys, *arguments)
    assert code == 0, error
    assert not (foreign / "canary").exists() and "owned" not in sys.modules


def test_a_foreign_run_that_is_trusted_is_used(
    foreign: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, error = called(capsys, "--trust", *COMMANDS["sharpness"])
    assert code == 0, error
    code, _, error = called(capsys, *COMMANDS["sharpness"])  # the trust ends with the command
    assert code == 2 and "gradiometer --trust" in error


def test_ones_own_run_needs_no_trust(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, error = called(capsys, *COMMANDS["sharpness"])
    assert code == 0, error


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('problem = "owned:problem"', 'problem = "os:system"'),
        ('problem = "owned:problem"', 'problem = "owned:problem"\nmodel = "touch canary"'),
        ('problem = "owned:problem"', 'problem = "owned:problem"\ndata_dir = "elsewhere"'),
        ('gauges = "', 'gauges = "owned:Gauge,'),
    ],
)
def test_a_run_that_was_changed_is_foreign(folder: Path, old: str, new: str) -> None:
    manifest = folder / RUN / "run.toml"
    before = manifest.read_text()
    changed = before.replace(old, new, 1)
    assert changed != before
    manifest.write_text(changed)
    (folder / "canary").unlink(missing_ok=True)
    try:
        with pytest.raises(
            BadArgument,
            match=r"was changed since, and resume would import|`gauges` lacks owned:Gauge",
        ):
            resume_unfinished(folder / RUN)
    finally:
        manifest.write_text(before)
    assert not (folder / "canary").exists()


HELPED = MODULE.replace("import torch\n", "import torch\nimport beside\n", 1)
STOLEN = "from pathlib import Path\nPath('stolen').touch()\n"


@pytest.fixture
def returned(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Callable[[str], Path]:
    """Makes a folder with `owned.py` and a run of it that was given away and has come back."""
    helped = tmp_path / "made"
    helped.mkdir()
    (helped / "owned.py").write_text(HELPED)
    (helped / "beside.py").write_text("")
    monkeypatch.setattr(sys, "path", [each for each in sys.path if each != str(folder)])
    monkeypatch.chdir(helped)
    for name in ("owned", "beside"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    code, _, error = called(
        capsys, "train", "owned:problem", "--steps", "24", "--every", "8", "--name", "owned"
    )
    assert code == 0, error

    def come_back(where: str) -> Path:
        away = tmp_path / "away"
        shutil.copytree(helped, away)
        for name in ("owned", "beside"):
            sys.modules.pop(name, None)
        sys.path[:] = [each for each in sys.path if not each.startswith(str(tmp_path))]
        importlib.invalidate_caches()
        monkeypatch.chdir(away / where)
        return away

    return come_back


def forked(path: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    code, _, error = called(capsys, "fork", path, "rate 2x", "--horizon", "4 updates", "--at", "0")
    return code, error


@pytest.mark.parametrize("changed", ["owned.py", "beside.py", "torch.py", "json/__init__.py"])
def test_a_run_that_comes_back_beside_other_code_does_not_run_it(
    returned: Callable[[str], Path], capsys: pytest.CaptureFixture[str], changed: str
) -> None:
    """The module that it names, what that imports, or a new file in the place of a library."""
    away = returned("")
    file = away / changed
    file.parent.mkdir(exist_ok=True)
    file.write_text(STOLEN + (HELPED if changed == "owned.py" else ""))
    code, error = forked(RUN, capsys)
    if changed == "json/__init__.py":  # nothing of this problem imports it
        assert code == 0, error
    else:
        assert code == 2 and "is not the one that it was made with" in error, error
        assert "gradiometer --trust" in error
        assert "owned" not in sys.modules and "beside" not in sys.modules
    assert not (away / "stolen").exists()


@pytest.mark.parametrize("searched", [False, True])
def test_the_folder_of_a_run_is_not_searched_for_code(
    returned: Callable[[str], Path], capsys: pytest.CaptureFixture[str], searched: bool
) -> None:
    """Also not if it is on the path already, as with `python -m gradiometer`."""
    away = returned(RUN)
    for name in ("owned.py", "beside.py"):
        shutil.copy(away / name, away / RUN / name)
    if searched:
        sys.path.insert(0, str(away / RUN))
    code, error = forked(".", capsys)
    assert code == 2, error
    expected = (
        "lies in the folder of the run" if searched else "the folder of a run is not searched"
    )
    assert expected in error, error
    assert "owned" not in sys.modules


def test_a_run_that_comes_back_beside_its_own_code_is_used(
    returned: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    away = returned("")
    (away / "unrelated.py").write_text(STOLEN)
    code, error = forked(RUN, capsys)
    assert code == 0, error


def test_ones_own_code_that_was_changed_is_used_if_it_is_trusted(
    returned: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    away = returned("")
    (away / "beside.py").write_text("CHANGED = True\n")
    assert forked(RUN, capsys)[0] == 2
    code, _, error = called(
        capsys, "--trust", "fork", RUN, "rate 2x", "--horizon", "4 updates", "--at", "0"
    )
    assert code == 0, error


def resume_unfinished(path: Path) -> Run:
    events = path / "events.jsonl"
    before = events.read_text()
    events.write_text(
        "".join(line for line in before.splitlines(keepends=True) if '"finished"' not in line)
    )
    try:
        return resume(path)
    finally:
        events.write_text(before)


def test_trust_in_python_is_a_context(foreign: Path) -> None:
    with pytest.raises(BadArgument, match="gradiometer --trust"):
        resume(foreign / "runs/stopped-1")
    with trusting():
        assert resume(foreign / "runs/stopped-1").status == "finished"


def test_a_run_of_our_own_problems_is_not_signed_and_needs_no_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    RunFolder.create(tmp_path, "run", {"configuration": Configuration().to_dict()})
    assert not (tmp_path / "state").exists()


def test_without_a_writable_home_the_machine_itself_is_the_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "state").write_text("a file, in which no folder can be made")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    configuration = Configuration(problem="owned:problem").to_dict()
    first = RunFolder.create(tmp_path, "run", {"configuration": configuration})
    assert first.manifest["made_by"]


def test_a_relative_folder_of_state_is_ignored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would be another one in each working folder, and so would be the key."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_STATE_HOME", "state")
    monkeypatch.chdir(tmp_path)
    RunFolder.create(
        tmp_path, "run", {"configuration": Configuration(problem="owned:problem").to_dict()}
    )
    assert not Path("state").exists()
    assert (tmp_path / "home/.local/state/gradiometer/key").stat().st_mode & 0o777 == 0o600
