"""Checkpoints are complete or absent, and are checked when read. A damaged one is reported and the
previous one used.

A checkpoint is the folder `checkpoints/step_000123/` with `tensors.safetensors`, `state.json` and
`SHA256SUMS`, which `sha256sum -c` understands. Nothing is ever unpickled.
"""

import errno
import hashlib
import json
import os
import re
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from gradiometer.errors import BadArgument, RunDamaged, ran_out_of_memory
from gradiometer.run.folder import RunFolder
from gradiometer.run.readings import StepNumber
from gradiometer.storage.disk import (
    check_inside,
    interrupted_by_disk,
    read_file,
    reason_of,
    remove_folder,
    sync_folder,
    write_new,
)
from gradiometer.storage.journal import plain, restored

if TYPE_CHECKING:  # a run is read on a machine without torch
    import torch


TENSORS = "tensors.safetensors"
STATE = "state.json"
SUMS = "SHA256SUMS"

# Errors that say nothing about the file: the same read may succeed later.
_OF_THE_MACHINE = (errno.EIO, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ESTALE, errno.EINTR)

_VISIBLE = re.compile(r"step_(\d{6,})")
_HIDDEN = re.compile(r"\.step_(\d{6,})\.(partial|replaced|removed)")


class _Document(msgspec.Struct):
    """The content of `state.json`."""

    step: StepNumber
    state: dict[str, Any]


@dataclass(frozen=True)
class Checkpoint:
    """Everything that a run needs to continue, bit for bit.

    Args:
        step: Number of steps done, which is the index of the next one.
        tensors: Parameters, buffers and all other tensors, on the CPU.
        state: The rest, as JSON values.
        path: Folder of the checkpoint; None if it is not kept.
        warnings: Sentences about damaged checkpoints, and about steps that could not be repeated
            exactly.
    """

    step: int
    tensors: Mapping[str, "torch.Tensor"]
    state: Mapping[str, Any]
    path: Path | None = None
    warnings: tuple[str, ...] = ()


def save(
    folder: RunFolder,
    step: int,
    tensors: Mapping[str, "torch.Tensor"],
    state: Mapping[str, Any],
    keep: int,
    lasting: Collection[int] = (),
) -> Path:
    """Write a checkpoint. At every moment there is a complete one on the disk, this one or the
    previous one.

    The files are written in a hidden folder, synced, and the folder is renamed. Then older
    checkpoints are deleted, and those of later steps, which are left if a run was resumed from an
    earlier step. Files that a killed write left are removed first.

    Args:
        folder: The run.
        step: Number of steps done.
        tensors: Tensors by name. Tensors that share storage are each written in full.
        state: JSON values with text as keys. Tuples are read back as lists.
        keep: Number of checkpoints to keep, at least 1.
        lasting: Steps whose checkpoints are kept besides these.

    Raises:
        BadArgument: Something cannot be saved. Nothing was written.
        Interrupted: The disk is full. The previous checkpoint is unchanged.
        StorageFailed: The folder cannot be written to.
    """
    files = {TENSORS: _tensor_bytes(tensors)}
    # The standard library's JSON keeps the 128-bit integers of a random generator's state; msgspec
    # does not.
    text = json.dumps({"step": step, "state": plain(state)}, allow_nan=False, ensure_ascii=True)
    files[STATE] = text.encode()
    sums = "".join(
        f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in files.items()
    )
    final = folder.checkpoints_path / f"step_{step:06d}"
    with interrupted_by_disk(final, folder.path, _safe(folder)):
        check_inside(final)
        _clear_leftovers(folder)
        _write_aside_and_rename(final, {**files, SUMS: sums.encode()})
        _prune(folder, step, keep, lasting)
    return final


def load_latest(
    folder: RunFolder,
    up_to: int | None = None,
    use: Callable[[Checkpoint], object] | None = None,
    *,
    put_aside: bool = False,
) -> tuple[Checkpoint | None, list[str]]:
    """The newest complete checkpoint, or None, and a warning for every newer one that is damaged.

    Too little memory, or a disk that cannot be read, is no damage.

    Args:
        folder: The run.
        up_to: Step after which no checkpoint is looked at.
        use: Takes the checkpoint. If it raises RunDamaged, the one before is taken, and nothing is
            renamed.
        put_aside: True for the process that writes the run: a damaged checkpoint is renamed to
            `torn_step_000123`, and deleted by the next save. Otherwise nothing changes on the disk.

    Raises:
        RunDamaged: There are checkpoints, and `use` has refused all of them.
        MemoryError: There is too little memory to read one.
        OSError: The disk failed, or too many files are open.
    """
    warnings: list[str] = []
    refused: list[RunDamaged] = []
    for step, path in _candidates(folder):
        if up_to is not None and step > up_to:
            continue
        try:
            checkpoint = _read(step, path)
        except FileNotFoundError as error:
            # the process that writes the run has deleted it: there is a newer one
            if not path.exists():
                newer, more = load_latest(folder, up_to, use, put_aside=put_aside)
                return newer, warnings + more
            reason = f"{Path(error.filename).name} is missing"
        except RunDamaged as error:
            reason = str(error).rstrip(".")
        else:
            try:
                if use is not None:
                    use(checkpoint)
            except RunDamaged as error:
                refused.append(error)
                warnings.append(f"checkpoint `{path.name}` is not used: {error}")
                continue
            return checkpoint, warnings
        warnings.append(
            f"checkpoint `{path.name}` is damaged ({reason}): the previous one is used."
        )
        if put_aside:
            _put_aside(path)
    if refused:
        raise refused[0]
    if warnings:
        warnings[-1] = warnings[-1].replace("the previous one is used", "there is no earlier one")
    return None, warnings


def checkpoint_steps(folder: RunFolder) -> list[int]:
    """Steps of the checkpoints on the disk, newest first. They are not checked."""
    return [step for step, _ in _candidates(folder)]


def _tensor_bytes(tensors: Mapping[str, "torch.Tensor"]) -> bytes:
    from safetensors import SafetensorError  # noqa: PLC0415  (heavy, and not needed to read a run)
    from safetensors.torch import save as to_bytes  # noqa: PLC0415

    # safetensors refuses tensors that share memory.
    seen: set[int] = set()
    separate: dict[str, torch.Tensor] = {}
    try:
        for name, tensor in tensors.items():
            on_cpu = tensor.detach().cpu().contiguous()
            storage = on_cpu.untyped_storage().data_ptr()
            separate[name] = on_cpu.clone() if storage in seen else on_cpu
            seen.add(storage)
        return to_bytes(separate)
    except (
        AttributeError,
        KeyError,
        TypeError,
        ValueError,
        RuntimeError,
        SafetensorError,
    ) as error:
        raise BadArgument(f"`tensors` cannot be saved as safetensors: {error}.") from error


def _write_aside_and_rename(final: Path, files: Mapping[str, bytes]) -> None:
    aside = final.with_name(f".{final.name}.partial")
    final.parent.mkdir(exist_ok=True)
    aside.mkdir()
    try:
        for name, content in files.items():
            write_new(aside / name, content)
        sync_folder(aside)
    except OSError:
        remove_folder(aside)  # frees the space on a full disk
        raise
    replaced = final.with_name(f".{final.name}.replaced")
    if final.exists():
        final.rename(replaced)
    aside.rename(final)
    sync_folder(final.parent)
    remove_folder(replaced)


def _clear_leftovers(folder: RunFolder) -> None:
    for path, name in _matching(folder, _HIDDEN):
        final = path.with_name(f"step_{name[1]}")
        if name[2] == "replaced" and not final.exists():
            path.rename(final)  # killed between the two renames: this is still the newest
        else:
            remove_folder(path)


def _prune(folder: RunFolder, step: int, keep: int, lasting: Collection[int]) -> None:
    found = [(int(name[1]), path) for path, name in _matching(folder, _VISIBLE)]
    steps = [(made, path) for made, path in found if made not in lasting or made > step]
    earlier = sorted((found for found in steps if found[0] <= step), reverse=True)
    later = [found for found in steps if found[0] > step]
    for _, path in earlier[keep:] + later:
        remove_folder(path)
    for path in folder.checkpoints_path.glob("torn_step_*"):
        remove_folder(path)


def _candidates(folder: RunFolder) -> list[tuple[int, Path]]:
    try:
        found = {
            int(name[1]): path for path, name in _matching(folder, _HIDDEN) if name[2] == "replaced"
        }
        found |= {int(name[1]): path for path, name in _matching(folder, _VISIBLE)}
    except OSError as error:
        raise RunDamaged(
            f"`{folder.checkpoints_path}` cannot be read: {reason_of(error)}."
        ) from error
    return sorted(found.items(), reverse=True)


def _matching(folder: RunFolder, pattern: re.Pattern[str]) -> list[tuple[Path, re.Match[str]]]:
    try:
        names = sorted(os.listdir(folder.checkpoints_path))  # noqa: PTH208
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [
        (folder.checkpoints_path / name, match)
        for name in names
        if (match := pattern.fullmatch(name))
    ]


def _read(step: int, path: Path) -> Checkpoint:
    """Raises FileNotFoundError or RunDamaged."""
    from safetensors import SafetensorError  # noqa: PLC0415  (heavy)
    from safetensors.torch import load as from_bytes  # noqa: PLC0415  (imports torch)

    try:
        listed = read_file(path / SUMS).decode("ascii", errors="replace").splitlines()
        sums = {name: total for total, _, name in (line.partition("  ") for line in listed)}
        content = {name: read_file(path / name, of_memory=1.0) for name in (TENSORS, STATE)}
        for name, written in content.items():
            if hashlib.sha256(written).hexdigest() != sums.get(name):
                raise RunDamaged(f"{name} does not match its checksum")
        document = msgspec.convert(json.loads(content[STATE]), _Document)
        tensors = from_bytes(content[TENSORS])
    except FileNotFoundError:
        raise
    except OSError as error:
        if error.errno in _OF_THE_MACHINE:
            raise
        raise RunDamaged(reason_of(error)) from error
    except (
        SafetensorError,
        ValueError,
        LookupError,
        TypeError,
        ArithmeticError,
        RuntimeError,
    ) as error:
        if ran_out_of_memory(error):
            raise
        raise RunDamaged(f"{type(error).__name__}: {str(error).partition(chr(10))[0]}") from error
    if document.step != step or document.state.get("step", step) != step:
        raise RunDamaged(f"{STATE} states step {document.step}")
    return Checkpoint(step, tensors, restored(document.state), path)


def _put_aside(path: Path) -> None:
    """Rename a damaged checkpoint, so that it does not count among those that are kept."""
    aside = path.with_name(f"torn_{path.name.lstrip('.')}")
    with suppress(OSError):  # a read-only run, or one whose folders are links
        check_inside(aside)
        if aside.exists():
            remove_folder(aside)
        path.rename(aside)


def _safe(folder: RunFolder) -> str:
    try:
        steps = checkpoint_steps(folder)
    except RunDamaged:
        return "and the earlier checkpoints cannot be listed"
    return (
        f"the checkpoint of step {steps[0]} is safe"
        if steps
        else "and there is no earlier checkpoint"
    )
