"""Checkpoints: killed, torn, flipped or out of room, the newest whole one is found, and the others
named."""

import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from gradiometer import BadArgument, Interrupted
from gradiometer.run.checkpoints import checkpoint_steps, load_latest, save
from gradiometer.run.folder import RunFolder
from gradiometer.storage.disk import read_file

FILES = ("tensors.safetensors", "state.json", "SHA256SUMS")


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path, "run", {})


def tensors(step: int) -> dict[str, Tensor]:
    return {"weight": torch.full((3, 2), float(step)), "count": torch.tensor(step)}


def save_step(folder: RunFolder, step: int, keep: int = 2) -> None:
    save(folder, step, tensors(step), {"step": step}, keep)


def names(folder: RunFolder) -> list[str]:
    return sorted(path.name for path in folder.checkpoints_path.iterdir())


def loaded_step(folder: RunFolder) -> tuple[int | None, list[str]]:
    """Step of the newest whole checkpoint, once its content agrees with it."""
    checkpoint, warnings = load_latest(folder)
    if checkpoint is None:
        return None, warnings
    assert checkpoint.state == {"step": checkpoint.step}
    assert torch.equal(checkpoint.tensors["weight"], tensors(checkpoint.step)["weight"])
    assert checkpoint.tensors["count"] == checkpoint.step
    return checkpoint.step, warnings


def bits(tensor: Tensor) -> Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def test_a_checkpoint_gives_back_every_bit(folder: RunFolder) -> None:
    generator = np.random.default_rng(0).bit_generator.state
    given = {
        "half": torch.randn(4).to(torch.bfloat16),
        "double": torch.tensor([1 / 3, float("nan"), float("inf"), -0.0], dtype=torch.float64),
        "bytes": torch.get_rng_state(),
        "scalar": torch.tensor(7),
        "nothing": torch.zeros(0, 3),
        "turned": torch.arange(6.0).reshape(2, 3).T,
    }
    state = {"rng": generator, "loss": float("inf"), "list": [1, None, True, "η"], "big": 2**127}
    save(folder, 12, given, state, 1)
    checkpoint, warnings = load_latest(folder)
    assert checkpoint is not None and warnings == [] and checkpoint.step == 12
    assert checkpoint.state == state
    for name, tensor in given.items():
        back = checkpoint.tensors[name]
        assert back.dtype == tensor.dtype and back.shape == tensor.shape
        assert bits(back).equal(bits(tensor))
        back.zero_()  # writable, without a warning


def test_tensors_that_share_storage_are_all_kept(folder: RunFolder) -> None:
    whole = torch.arange(10.0, requires_grad=True)
    shared = {"a": whole, "tied": whole, "part": whole[2:5], "rows": whole.reshape(5, 2)}
    save(folder, 0, shared, {}, 1)
    checkpoint, _ = load_latest(folder)
    assert checkpoint is not None
    for name, tensor in shared.items():
        assert torch.equal(checkpoint.tensors[name], tensor)


def test_sha256sum_agrees(folder: RunFolder) -> None:
    save_step(folder, 3)
    check = subprocess.run(
        ["sha256sum", "-c", "SHA256SUMS"], cwd=folder.checkpoints_path / "step_000003", check=False
    )
    assert check.returncode == 0


def test_only_the_newest_are_kept(folder: RunFolder) -> None:
    for step in (0, 5, 999_999, 1_000_000, 12_345_678):
        save_step(folder, step, keep=3)
    assert names(folder) == ["step_1000000", "step_12345678", "step_999999"]
    assert checkpoint_steps(folder) == [12_345_678, 1_000_000, 999_999]
    assert loaded_step(folder) == (12_345_678, [])


def test_saving_a_step_again_replaces_it_and_drops_what_lay_beyond(folder: RunFolder) -> None:
    for step in (10, 20, 30):
        save_step(folder, step, keep=3)
    save(folder, 20, {"weight": torch.zeros(1)}, {"again": True}, 3)
    checkpoint, _ = load_latest(folder)
    assert checkpoint is not None and checkpoint.state == {"again": True}
    assert names(folder) == ["step_000010", "step_000020"]


def test_without_checkpoints_there_is_none(folder: RunFolder) -> None:
    assert load_latest(folder) == (None, [])
    shutil.rmtree(folder.checkpoints_path)
    assert load_latest(folder) == (None, [])
    save_step(folder, 1)
    assert loaded_step(folder) == (1, [])


def damaged(content: bytes, offset: int) -> list[bytes]:
    return [
        content[:offset],
        content[:offset] + bytes([content[offset] ^ 0x10]) + content[offset + 1 :],
    ]


@pytest.mark.parametrize("name", FILES)
def test_a_file_cut_or_flipped_at_any_byte_is_noticed_and_the_one_before_is_used(
    folder: RunFolder, name: str
) -> None:
    save_step(folder, 1)
    save_step(folder, 2)
    path = folder.checkpoints_path / "step_000002" / name
    whole = path.read_bytes()
    for offset in range(len(whole)):
        for content in damaged(whole, offset):
            path.write_bytes(content)
            step, warnings = loaded_step(folder)
            if name == "SHA256SUMS" and step == 2:  # only the last newline is without meaning
                assert offset == len(whole) - 1
                continue
            assert step == 1
            (warning,) = warnings
            assert warning.startswith("checkpoint `step_000002` is damaged (")
            assert warning.endswith("): the previous one is used.")


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_noticed(folder: RunFolder, name: str) -> None:
    save_step(folder, 2)
    (folder.checkpoints_path / "step_000002" / name).unlink()
    assert loaded_step(folder) == (
        None,
        [f"checkpoint `step_000002` is damaged ({name} is missing): there is no earlier one."],
    )


def test_a_torn_checkpoint_does_not_count_among_those_that_are_kept(folder: RunFolder) -> None:
    save_step(folder, 1)
    save_step(folder, 2)
    (folder.checkpoints_path / "step_000002" / "state.json").write_bytes(b"")
    assert loaded_step(folder)[0] == 1
    assert names(folder) == ["step_000001", "step_000002"]  # a reader changes nothing
    load_latest(folder, put_aside=True)
    assert names(folder) == ["step_000001", "torn_step_000002"]
    save_step(folder, 3)
    assert names(folder) == ["step_000001", "step_000003"]


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OSError(errno.EIO, "Input/output error"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
    ],
)
def test_an_error_of_memory_or_of_the_disk_is_no_damage(
    folder: RunFolder, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(_: Path) -> bytes:
        raise error

    save_step(folder, 1)
    save_step(folder, 2)
    with monkeypatch.context() as patch:
        patch.setattr("gradiometer.run.checkpoints.read_file", failing)
        with pytest.raises(type(error)):
            load_latest(folder, put_aside=True)
    assert names(folder) == ["step_000001", "step_000002"]
    assert loaded_step(folder) == (2, [])


def test_a_checkpoint_renamed_to_another_step_is_not_believed(folder: RunFolder) -> None:
    save_step(folder, 2)
    (folder.checkpoints_path / "step_000002").rename(folder.checkpoints_path / "step_000009")
    assert loaded_step(folder)[0] is None


class Killed(BaseException):
    """The process ends here: nothing after it is done, no error is handled."""


CALLS = ("open", "write", "fsync", "mkdir", "rename", "unlink", "rmdir", "close")


@pytest.mark.parametrize("given", ["no tensor", torch.eye(2).to_sparse()])
def test_tensors_that_no_file_takes_are_refused_and_nothing_is_written(
    folder: RunFolder, given: Any
) -> None:
    save_step(folder, 1)
    with pytest.raises(BadArgument, match="`tensors` cannot be saved"):
        save(folder, 2, {"x": given}, {}, 1)
    assert names(folder) == ["step_000001"]


def killed_at(call: int, work: Callable[[], None], patch: pytest.MonkeyPatch) -> bool:
    """Do the work, but be killed at the n-th system call and at every one after it; False where it
    got through."""
    count = 0

    def counted(really: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            if count > call:
                raise Killed
            return really(*args, **kwargs)

        return wrapper

    with patch.context() as context:
        for name in CALLS:
            context.setattr(os, name, counted(getattr(os, name)))
        try:
            work()
        except Killed:
            return True
    return False


@pytest.mark.parametrize(
    "case", ["a new step", "the same step again", "after a kill between the two renames"]
)
def test_killed_at_any_system_call_one_whole_checkpoint_is_there_and_saving_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    step = 10 if case == "the same step again" else 20
    for call in range(1000):
        folder = RunFolder.create(tmp_path, "run", {})
        save_step(folder, 10, keep=1)
        if case == "after a kill between the two renames":
            (folder.checkpoints_path / "step_000010").rename(
                folder.checkpoints_path / ".step_000010.replaced"
            )
        if not killed_at(call, partial(save_step, folder, step, keep=1), monkeypatch):
            break
        found, warnings = loaded_step(folder)
        assert found in (10, step) and warnings == []
        save_step(folder, 30, keep=1)
        assert names(folder) == ["step_000030"]
    assert call > 20
    assert loaded_step(folder) == (step, [])


def test_everything_is_on_the_disk_before_it_is_seen_and_that_before_the_older_is_deleted(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_step(folder, 1, keep=1)
    calls: list[str] = []

    def noted(name: str, really: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(first: Any, *rest: Any) -> Any:
            target = Path(f"/proc/self/fd/{first}").readlink() if name == "fsync" else str(first)
            calls.append(f"{name} {Path(target).name}")
            return really(first, *rest)

        return wrapper

    for name in ("fsync", "rename"):
        monkeypatch.setattr(os, name, noted(name, getattr(os, name)))
    save_step(folder, 2, keep=1)
    assert calls == [
        *(f"fsync {name}" for name in FILES),
        "fsync .step_000002.partial",
        "rename .step_000002.partial",
        "fsync checkpoints",
        "rename step_000001",
    ]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_full_disk_leaves_the_checkpoint_before_and_says_how_to_go_on(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    save_step(folder, 1, keep=1)
    for call in range(3):
        seen, really = 0, os.write

        def fill_up(descriptor: int, content: Any, call: int = call, really: Any = really) -> int:
            nonlocal seen
            seen += 1
            if seen > call:
                raise OSError(code, os.strerror(code))
            return int(really(descriptor, content))

        with monkeypatch.context() as patch, pytest.raises(Interrupted) as stop:
            patch.setattr(os, "write", fill_up)
            save_step(folder, 2, keep=1)
        sentence = str(stop.value)
        assert (
            "step_000002` could not be written" in sentence
            and "the checkpoint of step 1 is safe" in sentence
        )
        assert sentence.endswith(f"then continue with `gradiometer resume {folder.path}`.")
        assert names(folder) == ["step_000001"]
        assert loaded_step(folder) == (1, [])


def test_a_reader_is_not_confused_by_a_checkpoint_deleted_under_it(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_step(folder, 1, keep=1)
    really = read_file
    moved_on = False

    def read(path: Path, **settings: float) -> bytes:
        nonlocal moved_on
        if not moved_on and path.name == "state.json":
            moved_on = True
            save_step(folder, 2, keep=1)
        return really(path, **settings)

    monkeypatch.setattr("gradiometer.run.checkpoints.read_file", read)
    assert loaded_step(folder) == (2, [])


WRITER = """
import os, sys, torch
from gradiometer.run.checkpoints import save
from gradiometer.run.folder import RunFolder

folder = RunFolder.open(sys.argv[1])
for line in sys.stdin:  # one child for every line, so that torch is imported once
    first, pid = int(line), os.fork()
    if pid == 0:
        for step in range(first, first + 100_000):
            tensors = {"weight": torch.full((3, 2), float(step)), "count": torch.tensor(step)}
            save(folder, step, tensors, {"step": step}, 2)
            os.write(1, f"saved {step}\\n".encode())
    os.write(1, f"child {pid}\\n".encode())
    os.waitpid(pid, 0)
    os.write(1, b"gone 0\\n")
"""


@pytest.mark.slow
def test_killed_at_random_moments_no_finished_checkpoint_is_ever_lost(folder: RunFolder) -> None:
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(folder.path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert writer.stdin is not None and writer.stdout is not None
    moments, newest, rounds = random.Random(0), 0, 30
    with writer, writer.stdin, writer.stdout:
        for _ in range(rounds):
            print(newest + 1, file=writer.stdin, flush=True)
            saved, child = newest, 0
            goal = newest + moments.randint(1, 3)
            for line in writer.stdout:
                word, number = line.split()
                child = int(number) if word == "child" else child
                saved = int(number) if word == "saved" else saved
                if child and saved >= goal:
                    break
            time.sleep(moments.random() * 0.005)
            os.kill(child, signal.SIGKILL)
            for line in writer.stdout:
                word, number = line.split()
                saved = int(number) if word == "saved" else saved
                if word == "gone":
                    break
            found, warnings = loaded_step(folder)
            assert warnings == [] and found is not None
            assert saved <= found <= saved + 1
            newest = found
    assert writer.returncode == 0
    save_step(folder, newest + 1)
    assert len(names(folder)) == 2
