"""Every fault of the system is one sentence and an exit code, and a result is printed before it is
stored."""

import errno
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest.mock import patch

import click
import pytest

from command_line import called
from gradiometer import RunDamaged, RunNotFound
from gradiometer.cli.boundary import Streams, ended_by_sigterm, explain, in_ascii
from gradiometer.cli.place import load_last_checkpoint
from gradiometer.run.recorder import Recorder
from report_run import run_in


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_in(tmp_path_factory.mktemp("runs"), steps=60).path


def os_error(number: int, path: str | None = None) -> OSError:
    return OSError(number, os.strerror(number), path)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            os_error(errno.EACCES, "here/run.toml"),
            "`here/run.toml` could not be read or written (permission denied)",
        ),
        (os_error(errno.ENOSPC), "(no space left on device): free some space"),
        (os_error(errno.EROFS, "here"), "choose another folder"),
        (os_error(errno.EIO, "here"), "check the disk"),
        (
            os_error(errno.ENOENT, "runs/digits-1/x"),
            "`runs/digits-1/x` could not be read or written (no such file",
        ),
        (os_error(errno.ENOENT, "elsewhere/a/x"), "check that it still exists"),
        (os_error(errno.EISDIR, "elsewhere/a"), "name a file"),
        (os_error(errno.EMFILE), "too many files are open: raise the limit with `ulimit -n 4096`"),
        (os_error(errno.ENOMEM), "there is not enough memory"),
        (os_error(errno.EAGAIN), "no more threads or processes"),
        (MemoryError(), "there is not enough memory"),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
            "not enough memory",
        ),
        (RuntimeError("can't start new thread"), "no more threads or processes"),
        (
            ImportError("libtorch.so: failed to map segment: Cannot allocate memory"),
            "not enough memory",
        ),
        (
            ImportError("numpy failed.\nIt was: a.so: failed to map segment from shared object\n"),
            "not enough memory",
        ),
    ],
)
def test_a_fault_of_the_system_is_a_sentence_with_a_way_out(error: Exception, words: str) -> None:
    sentence, code = explain(error, ["report", "--out=elsewhere"])
    assert code == 6 and words in sentence and sentence.endswith(".")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (os_error(errno.EMFILE), "too many files are open"),
        (os_error(errno.ENOMEM), "there is not enough memory"),
        (RuntimeError("can't start new thread"), "no more threads or processes"),
    ],
)
def test_a_fault_of_the_system_in_the_users_code_has_the_line_and_a_way_out(
    error: Exception, words: str
) -> None:
    try:
        raise error
    except Exception as raised:
        sentence, code = explain(raised, [])
    assert code == 6 and "test_boundary.py" in sentence and words in sentence


class Interrupts:
    def __set_name__(self, owner: type, name: str) -> None:
        raise KeyboardInterrupt


def test_an_interrupt_while_a_class_is_made_is_no_bug() -> None:
    try:
        type("Made", (), {"attribute": Interrupts()})
    except BaseException as error:  # Python 3.11: a RuntimeError
        assert explain(error, []) == ("stopped before the end.", 5)
    assert explain(RuntimeError("Error calling __set_name__"), [])[1] == 1


@pytest.mark.parametrize(
    "error",
    [
        KeyError("x"),
        os_error(errno.ENOENT, "/nowhere/template.jinja"),
        os_error(errno.ENOENT),
        ModuleNotFoundError("no module"),
        ImportError("a.so: failed to map segment from shared object: Operation not permitted"),
        os_error(errno.EBADF),
    ],
)
def test_what_is_not_a_fault_of_the_system_is_a_bug(error: Exception) -> None:
    assert explain(error, ["report", "runs/x"]) == (
        "this is a bug in gradiometer; the traceback above shows where",
        1,
    )


def test_a_python_without_docstrings_is_named() -> None:
    script = (
        "from gradiometer.cli.boundary import explain; print(explain(AttributeError('Found no "
        "doc for x'), []))"
    )
    done = subprocess.run(
        [sys.executable, "-OO", "-c", script], capture_output=True, text=True, check=False
    )
    assert "removes: leave it out." in done.stdout and done.stdout.endswith(", 6)\n"), done.stderr


def test_a_deleted_current_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    sentence, code = explain(os_error(errno.ENOENT), [])
    monkeypatch.chdir(tmp_path)
    assert (sentence, code) == ("the current folder was deleted: change to another one.", 6)


def test_the_traceback_is_shown_if_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, _, err = called(capsys, "learn", "schedule", "1/t", "--tuned", "1")
    assert "Traceback" not in err
    monkeypatch.setenv("GRADIOMETER_DEBUG", "1")
    code, _, err = called(capsys, "learn", "schedule", "1/t", "--tuned", "1")
    assert code == 2 and "Traceback" in err and "BadArgument" in err


@pytest.mark.parametrize(
    ("text", "ascii"),
    [
        ("η_t → 0, Σ η² < ∞", "eta_t -> 0, Sigma eta^2 < inf"),
        ("‖ĝ‖ ± ½ ✓ ▲", "||g|| +- 1/2 ok !"),
        ("λ₁ 狐 …", "lambda_1 ? ..."),
        ("Ǖ Ṓ ǆ", "U O dz"),
    ],
)
def test_letters_are_spelled_in_ascii(text: str, ascii: str) -> None:
    assert in_ascii(text) == ascii


class Broken(io.FileIO):
    """A file whose writes fail."""

    def __init__(self, path: Path, number: int) -> None:
        super().__init__(str(path), "w")
        self.number = number

    def write(self, _: object) -> int:
        raise os_error(self.number)


def printed(stream: io.TextIOWrapper, *arguments: str) -> int:
    """The exit code of a command that prints to this stream, as `sys.stdout` of its process."""
    from gradiometer.cli import main

    with patch.multiple(sys, stdout=stream, __stdout__=stream), pytest.raises(SystemExit) as ended:
        main(list(arguments))
    return int(ended.value.code)


@pytest.mark.parametrize(("number", "code"), [(errno.EPIPE, 141), (errno.ENOSPC, 6)])
def test_output_that_cannot_be_written_still_leaves_a_page(
    written: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], number: int, code: int
) -> None:
    (written / "report.html").unlink(missing_ok=True)
    stream = io.TextIOWrapper(io.BufferedWriter(Broken(tmp_path / "out", number)), "utf-8")
    assert printed(stream, "show", str(written)) == code
    assert (written / "report.html").is_file()
    error = capsys.readouterr().err
    assert error == (
        "" if code == 141 else "error: the output could not be written: no space left on device.\n"
    )


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_the_output_is_in_the_encoding_that_was_asked_for(tmp_path: Path, encoding: str) -> None:
    with (tmp_path / "out").open("w", encoding=encoding) as stream:
        assert printed(stream, "learn", "schedule", "1/t") == 0
    text = (tmp_path / "out").read_bytes().decode(encoding)
    assert ("η_t" in text) == (encoding == "utf-8") and ("eta_t" in text) == (encoding != "utf-8")


def test_streams_that_a_program_has_replaced_are_left_alone() -> None:
    stream = io.StringIO()
    with patch.object(sys, "stdout", stream), Streams() as streams:
        click.echo("η")
        assert streams.failure() is None
    assert stream.getvalue() == "η\n"


def test_a_closed_standard_output_is_no_error() -> None:
    command = f"{sys.executable} -m gradiometer learn schedule 1/t >&-"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    "closing",
    [
        "sys.stdout.close(), sys.stderr.close()",
        "sys.stdout.buffer.close(), sys.stderr.buffer.close()",
        "sys.__stdout__.close()",
    ],
)
def test_streams_that_the_users_code_closes_are_no_traceback(tmp_path: Path, closing: str) -> None:
    (tmp_path / "closes.py").write_text(
        f"import sys\n\n\ndef problem():\n    {closing}\n    raise ValueError('mine')\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "gradiometer", "train", "closes:problem", "--json"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "bug in gradiometer" not in done.stderr and "I/O operation" not in done.stderr
    assert done.returncode not in (0, 1) and "ValueError: mine" in done.stderr


def refuse_writes(monkeypatch: pytest.MonkeyPatch, *modules: str) -> None:
    def refused(path: Path, content: bytes) -> None:
        raise os_error(errno.EACCES, str(path))

    for module in modules:
        monkeypatch.setattr(f"gradiometer.{module}.replace_file", refused)


def prints_and_refuses(capsys: pytest.CaptureFixture[str], *command: str) -> None:
    """The command prints its result, says that it cannot be stored, and exits with 6, in words and
    as JSON."""
    code, out, err = called(capsys, *command)
    assert code == 6 and len(out) > 100 and "permission denied" in err
    code, out, err = called(capsys, *command, "--json")
    told = json.loads(out)
    assert code == told["exit_code"] == 6 and "permission denied" in told["error"] and len(told) > 5


def test_a_result_that_cannot_be_stored_is_printed(
    written: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_writes(monkeypatch, "report.page.document")
    prints_and_refuses(capsys, "show", str(written))


@pytest.mark.slow
def test_no_command_loses_a_result_that_cannot_be_stored(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for seed in ("0", "1"):
        code, *_ = called(
            capsys, "train", "digits", "-e", "2", "--snapshots", "3", "--seed", seed, "--no-open"
        )
        assert code == 0
    modules = (
        "report.page.document",
        "report.charts.charts",
        "run.artifacts",
        "tuning.of_problem",
    )
    refuse_writes(monkeypatch, *modules)
    first, second = (str(path) for path in sorted(Path("runs").iterdir()))
    few = ("--steps", "400", "--burn-in", "50", "--every", "2")
    prints_and_refuses(capsys, "runs", "compare", first, second)
    prints_and_refuses(
        capsys, "measure", "sharpness", first, "--examples", "64", "--top", "1", "--probes", "4"
    )
    prints_and_refuses(
        capsys, "measure", "certificate", first, "--examples", "64", "--batches", "8"
    )
    prints_and_refuses(capsys, "ensemble", first, "--points", "0")
    prints_and_refuses(
        capsys, "learn", "sample", "linear-regression", *few, "--chains", "2", "--png", "pictures"
    )
    prints_and_refuses(capsys, "fork", first, "rate 2x", "--replicates", "2")
    prints_and_refuses(capsys, "tune", "quadratic", "--steps", "40")


def test_no_checkpoint_and_a_damaged_one_are_told_apart(written: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(written, tmp_path / "run")
    with pytest.raises(RunNotFound, match="has no checkpoint, so"):
        load_last_checkpoint(None, copy)
    (copy / "checkpoints" / "step_000001").mkdir()
    with pytest.raises(RunDamaged, match="no checkpoint that can be read"):
        load_last_checkpoint(None, copy)


@pytest.mark.parametrize("gone", [".", "run.toml"])
def test_a_run_that_is_deleted_while_it_is_trained_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, gone: str
) -> None:
    close = Recorder.close

    def closed(recorder: Recorder) -> None:
        close(recorder)
        path = recorder.folder.path / gone
        path.unlink(missing_ok=True) if gone != "." else shutil.rmtree(path, ignore_errors=True)

    monkeypatch.setattr(Recorder, "close", closed)
    code, _, error = called(
        capsys, "train", "quadratic", "--steps", "20", "--no-open", "--out", str(tmp_path)
    )
    assert code == 6 and error.endswith(
        "-1` was deleted or moved in the meantime: nothing more can be read there.\n"
    )


def test_a_run_that_is_deleted_while_it_is_certified_loses_no_result(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (
        called(capsys, "train", "quadratic", "--steps", "20", "--no-open", "--out", str(tmp_path))[
            0
        ]
        == 0
    )
    (path,) = tmp_path.iterdir()
    verb = import_module("gradiometer.cli.measure.certificate")
    certified = verb._certify

    def and_gone(*arguments: Any, **settings: Any) -> Any:
        found = certified(*arguments, **settings)
        shutil.rmtree(path)
        return found

    monkeypatch.setattr(verb, "_certify", and_gone)
    code, out, error = called(capsys, "measure", "certificate", str(path))
    assert code == 6 and len(out) > 200 and "was deleted or moved in the meantime" in error


AT_ONCE = "def main(**_): term()"
IN_A_CALLBACK = """
class Held: pass
def main(**_):
    held = Held()
    reference = weakref.ref(held, lambda _: term())
    del held
    time.sleep(10)
"""
IN_DEL = """
class Held:
    def __del__(self): term()
def main(**_):
    Held()
    time.sleep(10)
"""
IN_THE_HOOK = """
class Held:
    def __del__(self): raise ValueError
def main(**_):
    Held()
    time.sleep(10)
sys.unraisablehook = lambda _: term()
"""
NO_THREADS = """
def start_new_thread(*_): raise RuntimeError
cli.boundary.start_new_thread = start_new_thread
"""
AS_ANOTHER = """
def main(**_):
    try: term(); time.sleep(10)
    except KeyboardInterrupt: raise RuntimeError("an error of C++") from None
"""
IN_THE_REPORT = "def main(**_): raise KeyboardInterrupt\ncli.report_error = lambda *_: term()"


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize(
    ("where", "code", "said"),
    [
        (AT_ONCE, 5, "error: stopped before the end.\n"),
        (IN_A_CALLBACK, 5, "error: stopped before the end.\n"),
        (IN_DEL, 5, "error: stopped before the end.\n"),
        (IN_THE_HOOK, 5, "error: stopped before the end.\n"),
        (AS_ANOTHER, 5, "error: stopped before the end.\n"),
        (IN_DEL + NO_THREADS, -signal.SIGTERM, ""),
        (IN_THE_REPORT, -signal.SIGTERM, ""),
    ],
    ids=[
        "at once",
        "in a callback",
        "in __del__",
        "in the hook",
        "as another error",
        "without threads",
        "in the report",
    ],
)
def test_sigterm_before_the_training_ends_a_command(where: str, code: int, said: str) -> None:
    script = (
        "import os, signal, sys, time, weakref, gradiometer.cli as cli\n"
        "def term(): os.kill(os.getpid(), signal.SIGTERM)\n"
        f"{where}\ncli.gradiometer.main = main\n"
        "cli.main(['train'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (code, said)


def test_a_command_leaves_signals_and_ignored_exceptions_as_they_were() -> None:
    before = signal.getsignal(signal.SIGTERM), sys.unraisablehook
    with pytest.raises(ZeroDivisionError), ended_by_sigterm():
        assert signal.getsignal(signal.SIGTERM) != before[0] and sys.unraisablehook != before[1]
        raise ZeroDivisionError
    assert (signal.getsignal(signal.SIGTERM), sys.unraisablehook) == before


@pytest.mark.skipif(sys.platform == "win32", reason="limits are POSIX")
def test_too_few_open_files_are_named() -> None:
    script = (
        "import resource, gradiometer.cli as cli\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))\n"
        "cli.main(['show', 'runs/digits-1'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 6 and done.stderr.startswith("error: too many files are open")
