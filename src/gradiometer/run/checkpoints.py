"""What a run keeps besides its journals: checkpoints, which are complete or absent and are checked when
read; results of commands; snapshots; losses of single examples."""

import hashlib
import json
import os
import re
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
import numpy as np

from gradiometer.errors import RunDamaged, RunNotFound
from gradiometer.measurement.artifact import Artifact
from gradiometer.measurement.evaluation import PerExample
from gradiometer.run.folder import RunFolder
from gradiometer.run.reader import Run
from gradiometer.run.readings import StepNumber
from gradiometer.storage.disk import (
    append,
    check_inside,
    interrupted_by_disk,
    open_to_read,
    read_file,
    reason_of,
    remove_folder,
    replace_file,
    sync_folder,
    write_new,
    writing,
)
from gradiometer.storage.journal import plain, restored

if TYPE_CHECKING:  # a run is read on a machine without torch
    from gradiometer.exploration.ensembles.snapshots import Snapshot
if TYPE_CHECKING:  # a run is read on a machine without torch
    import torch


TENSORS = "tensors.safetensors"
STATE = "state.json"
SUMS = "SHA256SUMS"

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
    folder: RunFolder, up_to: int | None = None, use: Callable[[Checkpoint], object] | None = None
) -> tuple[Checkpoint | None, list[str]]:
    """The newest complete checkpoint, or None, and a warning for every newer one that is damaged.

    A damaged one is renamed to `torn_step_000123` if the folder can be written to.

    Args:
        folder: The run.
        up_to: Step after which no checkpoint is looked at.
        use: Takes the checkpoint. If it raises RunDamaged, the one before is taken, and nothing is
            renamed.

    Raises:
        RunDamaged: There are checkpoints, and `use` has refused all of them.
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
                newer, more = load_latest(folder, up_to, use)
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
    from safetensors.torch import save as to_bytes  # noqa: PLC0415  (heavy, and not needed to read a run)

    # safetensors refuses tensors that share memory.
    seen: set[int] = set()
    separate: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        on_cpu = tensor.detach().cpu().contiguous()
        storage = on_cpu.untyped_storage().data_ptr()
        separate[name] = on_cpu.clone() if storage in seen else on_cpu
        seen.add(storage)
    return to_bytes(separate)


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
        tensor_bytes, state_bytes = (_verify(path / name, sums) for name in (TENSORS, STATE))
        document = msgspec.convert(json.loads(state_bytes), _Document)
        tensors = from_bytes(tensor_bytes)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise RunDamaged(reason_of(error)) from error
    except (
        SafetensorError,
        ValueError,
        LookupError,
        TypeError,
        ArithmeticError,
        RuntimeError,
        MemoryError,
    ) as error:
        raise RunDamaged(f"{type(error).__name__}: {str(error).partition(chr(10))[0]}") from error
    if document.step != step or document.state.get("step", step) != step:
        raise RunDamaged(f"{STATE} states step {document.step}")
    return Checkpoint(step, tensors, restored(document.state), path)


def _verify(path: Path, sums: Mapping[str, str]) -> bytes:
    content = read_file(path)
    if hashlib.sha256(content).hexdigest() != sums.get(path.name):
        raise RunDamaged(f"{path.name} does not match its checksum")
    return content


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


Kind = TypeVar("Kind", bound=Artifact)


def save_artifact(run: Run, artifact: Artifact) -> str:
    """Write an artifact into the run and return the file's name there. One of the same step is
    replaced.

    Raises:
        StorageFailed: It cannot be written.
    """
    name = artifact.files.replace("*", f"{getattr(artifact, 'step', 0):06d}")
    path = run.path / name
    with writing(path):
        path.parent.mkdir(exist_ok=True)
        replace_file(path, json.dumps(plain(artifact)).encode())
    return name


def load_artifacts(run: Run, kind: type[Kind]) -> tuple[Kind, ...]:
    """All artifacts of a kind in a run, in the order of their steps.

    A file that cannot be read is skipped, and `run.warnings` names it.
    """
    names = {field.name for field in fields(kind)}
    found = []
    for path in sorted(run.path.glob(kind.files), key=lambda path: (len(path.name), path.name)):
        try:
            written = restored(json.loads(read_file(path)))
            known = {name: value for name, value in written.items() if name in names}
            found.append(msgspec.convert(known, kind, dec_hook=_array))
        except (
            OSError,
            ValueError,
            TypeError,
            AttributeError,
            ArithmeticError,
            RecursionError,
        ) as error:
            run.unread[path.relative_to(run.path).as_posix()] = (
                str(error).partition("\n")[0].rstrip(".")
            )
    return tuple(found)


def _array(_: type, value: Any) -> Any:
    """The only field type that JSON and msgspec do not know is an array of doubles."""
    return np.array(value, dtype=np.float64)


def save_snapshot(folder: Path, snapshot: "Snapshot") -> Path:
    """Write `step_000123.safetensors`, so that a reader sees the complete file or none.

    A resumed run overwrites it with the same bits.

    Args:
        folder: The folder for the snapshots of a run. It is created if missing.
        snapshot: The snapshot.

    Raises:
        Interrupted: The disk is full. Existing files are unchanged.
        StorageFailed: The folder cannot be written to.
    """
    path = folder / f"step_{snapshot.step:06d}.safetensors"
    with interrupted_by_disk(path, folder.parent, "the last checkpoint is safe"):
        folder.mkdir(parents=True, exist_ok=True)
        replace_file(path, snapshot.to_bytes())
    return path


def load_snapshots(folder: Path) -> list["Snapshot"]:
    """All snapshots in a folder, in the order in which they were taken.

    Raises:
        RunNotFound: The folder has no snapshots.
        RunDamaged: A snapshot is incomplete, changed or unreadable.
    """
    from gradiometer.exploration.ensembles.snapshots import Snapshot  # noqa: PLC0415 (imports torch)

    found = []
    for path in snapshot_paths(folder):
        try:
            content = read_file(path)
        except OSError as error:
            raise RunDamaged(f"`{path}` cannot be read: {reason_of(error)}.") from error
        found.append(Snapshot.from_bytes(content, f"`{path}`"))
    if not found:
        raise RunNotFound(f"`{folder}` has no snapshots: train with `--snapshots 5`, for example.")
    return found


def snapshot_paths(folder: Path) -> list[Path]:
    """The snapshot files in a folder, in the order of their steps."""
    numbered = [
        (int(name[1]), path)
        for path in folder.glob("step_*")
        if (name := re.compile(r"step_(\d{6,})\.safetensors").fullmatch(path.name))
    ]
    return [path for _, path in sorted(numbered)]


FILE = "examples.f32"

# Single precision: a difference of two losses is then exact to a ten-millionth of them.
KIND = np.dtype("<f4")


def write_examples(folder: Path, examples: Mapping[str, PerExample]) -> dict[str, list[int]]:
    """Append numbers to the file of a run, and return at which byte each begins and how many it has.

    Numbers that are not finite are left out, since their mean says nothing.
    """
    places: dict[str, list[int]] = {}
    for name, values in examples.items():
        if np.isfinite(values).all():
            begin = append(folder / FILE, values.astype(KIND).tobytes())
            places[name] = [begin, len(values)]
    return places


def read_examples(folder: Path, begin: int, count: int) -> PerExample | None:
    """The numbers at this place; None if the file does not have them."""
    size = count * KIND.itemsize
    try:
        with open_to_read(folder / FILE) as file:
            # checked before reading, since a damaged event may name any number
            if begin + size > os.fstat(file.fileno()).st_size:
                return None
            file.seek(begin)
            values = np.frombuffer(file.read(size), KIND).astype(np.float64)
    except (OSError, ValueError):
        return None
    return values if np.isfinite(values).all() else None
