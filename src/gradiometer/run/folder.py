"""The folder of a run: its layout, and how it is created, opened and found."""

import difflib
import itertools
import os
import platform
import re
import shutil
import tomllib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, NotRequired, TypedDict

import msgspec
import tomli_w

from gradiometer import __version__
from gradiometer.arguments import path_of
from gradiometer.errors import BadArgument, RunDamaged, RunNotFound, StorageFailed
from gradiometer.measurement.reading import Draw, Sampling
from gradiometer.run.configuration import Configuration, WatchedConfiguration
from gradiometer.run.readings import StepNumber
from gradiometer.run.rules import MOST_STEPS
from gradiometer.storage.disk import read_file, reason_of, replace_file, sync_folder, writing

# Version of the layout of a run folder. It is raised if readers of the previous version cannot read
# the new one.
FORMAT = 1

MANIFEST = "run.toml"
# The description of the problem of a run that `watch` has recorded in a user's own loop.
WATCHED = "a loop of its own, watched"


def _working_folder() -> Path | None:
    """The working folder; None if it has been deleted."""
    try:
        return Path.cwd()
    except OSError:
        return None


@dataclass(frozen=True)
class RunFolder:
    """A run on disk. Use `create` or `open`. To delete the run, delete the folder.

    Args:
        path: The folder.
        seen_from: The working folder, from which a relative path is meant.
    """

    path: Path
    seen_from: Path | None = field(default_factory=_working_folder, repr=False, compare=False)

    @property
    def place(self) -> Path:
        """The path, also if the program has changed its working folder since."""
        if self.seen_from is None or self.seen_from == _working_folder():
            return self.path
        return self.seen_from / self.path

    @classmethod
    def create(
        cls, parent: Path | str, name: str, manifest: Mapping[str, Any], forks: Path | None = None
    ) -> "RunFolder":
        """Create `parent/stem-1`, or the next free number. Two processes never get the same folder.

        Args:
            parent: Folder of the runs. It is created if missing.
            name: Beginning of the run's name.
            manifest: Content of `run.toml` apart from format, name and time: configuration,
                versions, seeds, sampling as {draw, examples}, layers as a list of names, and
                anything else that explains the run. Values of None are omitted.
            forks: Folder of forks that the run owes its configuration to. It is copied before
                `run.toml` is written, so that a run is never without them, and the numbers of its
                own forks go on from theirs.

        Raises:
            BadArgument: The name is not a file name, or the manifest cannot be written as TOML.
            StorageFailed: The folder cannot be created.
        """
        try:
            body = tomli_w.dumps(_without_none(manifest))
            body.encode()
        except (TypeError, ValueError, AttributeError) as error:
            raise BadArgument(f"`manifest` cannot be written as TOML: {error}.") from error
        form = r"[^\s./\\\x00-\x1f\ud800-\udfff-][^/\\\x00-\x1f\ud800-\udfff]{0,199}"
        if not (isinstance(name, str) and re.fullmatch(form, name)):
            raise BadArgument(
                "`name` must be a file name of at most 200 letters with no dot or dash in front, "
                f"got {name!r}."
            )
        parent = Path(parent)
        with writing(parent, "choose another folder for the runs"):
            parent.mkdir(parents=True, exist_ok=True)
            folder = cls(_next_free(parent, name))
            folder._write(body, manifest.get("configuration"), forks)
        return folder

    @classmethod
    def open(cls, path: Path | str) -> "RunFolder":
        """The run in this folder.

        Raises:
            RunNotFound: There is no run in it. The message names runs nearby.
            RunDamaged: The run cannot be read, or was written in a newer format.
        """
        folder = cls(path_of("path", path))
        folder._refuse_other_formats()
        return folder

    def _refuse_other_formats(self) -> None:
        written = self.manifest.get("format")
        if type(written) is not int or not written >= 1:
            raise RunDamaged(
                f"`{self.manifest_path}` has no valid `format`: it is not the manifest of a run."
            )
        if written > FORMAT:
            by = f" by gradiometer {self._writer}" if self._writer else ""
            raise RunDamaged(
                f"`{self.path}` was written in format {written}{by}, and gradiometer "
                f"{__version__} reads formats up to {FORMAT}: install a newer gradiometer."
            )

    @property
    def _writer(self) -> str:
        """The version of gradiometer that wrote the run; empty if it is not known."""
        written: str = self.manifest.get("versions", {}).get("gradiometer", "")
        return written

    @property
    def name(self) -> str:
        """Name of the run: that of its folder, also after a move."""
        return self.path.name or self.path.resolve().name

    @property
    def manifest_path(self) -> Path:
        """File of the configuration, versions, seeds and the fingerprint of the data."""
        return self.path / MANIFEST

    @property
    def events_path(self) -> Path:
        """File of the events, one line each."""
        return self.path / "events.jsonl"

    @property
    def checkpoints_path(self) -> Path:
        """Folder of the checkpoints."""
        return self.path / "checkpoints"

    @property
    def snapshots_path(self) -> Path:
        """Folder of the snapshots."""
        return self.path / "snapshots"

    def readings_path(self) -> Path:
        """File of the readings and losses."""
        return self.path / "readings.jsonl"

    @property
    def manifest(self) -> dict[str, Any]:
        """Content of `run.toml`: format, name, created, configuration, versions, seeds, fingerprint
        of the data; without the keys that do not fit."""
        return self._manifest_and_warnings[0]

    @property
    def warnings(self) -> list[str]:
        """A sentence about each key of `run.toml` that was left out."""
        return self._manifest_and_warnings[1]

    @cached_property
    def _manifest_and_warnings(self) -> tuple[dict[str, Any], list[str]]:
        try:
            return read_manifest(self.manifest_path)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise RunNotFound(_not_a_run_sentence(self.path)) from error
        except OSError as error:
            raise RunDamaged(
                f"`{self.manifest_path}` cannot be read: {reason_of(error)}."
            ) from error

    @property
    def watched(self) -> bool:
        """True if `watch` recorded it in a user's own loop, so that commands do not know its model
        and data."""
        return bool(self.manifest.get("problem", {}).get("description") == WATCHED)

    @cached_property
    def configuration(self) -> Configuration | WatchedConfiguration:
        """The configuration of the run."""
        try:
            kind = WatchedConfiguration if self.watched else Configuration
            return kind.from_mapping(self.manifest["configuration"], str(self.manifest_path))
        except BadArgument as error:
            raise RunDamaged(str(error)) from error

    @cached_property
    def sampling(self) -> Sampling:
        """How batches were drawn: `sampling` of the manifest, or else of the configuration, with
        unknown N."""
        return _sampling(self.manifest.get("sampling", {"draw": self.configuration.sampling}))

    @property
    def measured_sampling(self) -> Sampling:
        """How the examples of the readings were drawn: `probe` of the manifest, or else as the
        batches."""
        return _sampling(self.manifest["probe"]) if "probe" in self.manifest else self.sampling

    @cached_property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers, in the order of the moments per layer."""
        return tuple(self.manifest.get("layers", ()))

    def _write(self, body: str, configuration: Any, forks: Path | None) -> None:
        from gradiometer.run.trust import origin  # noqa: PLC0415 (needed when a run begins)

        created = datetime.now(UTC).isoformat(timespec="seconds")
        made = origin(created, configuration) if isinstance(configuration, Mapping) else {}
        header = tomli_w.dumps({"format": FORMAT, "name": self.name, "created": created} | made)
        try:
            self.checkpoints_path.mkdir()
            self.snapshots_path.mkdir()
            if forks is not None:
                shutil.copytree(forks, self.path / "forks")
            replace_file(self.manifest_path, (header + body).encode())
            sync_folder(self.path.parent)
        except OSError:
            shutil.rmtree(self.path, ignore_errors=True)
            raise


def _sampling(stated: Mapping[str, Any]) -> Sampling:
    return Sampling(Draw(stated["draw"]), stated.get("examples"))


def run_folders(parent: Path | str) -> list[Path]:
    """The run folders in a folder, newest first.

    Raises:
        StorageFailed: The folder cannot be read.
    """
    try:
        names = os.listdir(parent)  # noqa: PTH208
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise StorageFailed(
            f"`{parent}` could not be read: {reason_of(error)}; check its permissions."
        ) from error
    found: list[tuple[float, str, Path]] = []
    for path in (Path(parent, name) for name in names):
        try:
            found.append(((path / MANIFEST).stat().st_mtime, path.name, path))
        except (FileNotFoundError, NotADirectoryError):  # no run, or it was deleted in the meantime
            continue
        except OSError:  # whoever opens it says what is wrong
            found.append((0.0, path.name, path))
    return [path for *_, path in sorted(found, reverse=True)]


def _next_free(parent: Path, stem: str) -> Path:
    numbered = re.compile(re.escape(stem) + r"-(\d{1,9})")
    taken = [int(match[1]) for name in os.listdir(parent) if (match := numbered.fullmatch(name))]  # noqa: PTH208
    for number in itertools.count(max(taken, default=0) + 1):
        path = parent / f"{stem}-{number}"
        with suppress(FileExistsError):  # another process was faster
            path.mkdir()
            return path
    raise AssertionError  # unreachable: the loop has no end


def _without_none(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _without_none(part) for name, part in value.items() if part is not None}
    if isinstance(value, list | tuple):
        return [_without_none(part) for part in value if part is not None]
    return value


def _not_a_run_sentence(path: Path) -> str:
    def runs_in(folder: Path) -> list[Path]:
        try:
            return run_folders(folder)
        except StorageFailed:
            return []

    reason = f"there is no {MANIFEST} in it" if path.is_dir() else "there is no such folder"
    if path.is_file():
        reason = "it is a file"
    nearby = [path.parent] if path.name == MANIFEST and path.is_file() else runs_in(path)
    if not nearby:
        siblings = {sibling.name: sibling for sibling in runs_in(path.parent)}
        close = difflib.get_close_matches(path.name, siblings, n=3, cutoff=0.3)
        nearby = [siblings[name] for name in close] or list(siblings.values())
    if not nearby:
        return f"`{path}` is not a run folder: {reason}."
    names = ", ".join(f"`{run}`" for run in nearby[:3])
    return (
        f"`{path}` is not a run folder: {reason}; nearby {'is' if len(nearby[:3]) == 1 else 'are'} "
        f"{names}."
    )


def versions() -> dict[str, str]:
    """Versions of Python, gradiometer and the libraries that a run is computed with."""
    return {
        "python": platform.python_version(),
        "gradiometer": __version__,
        **{package: version(package) for package in ("torch", "numpy")},
        "platform": platform.platform(),
    }


def file_name(name: str, default: str = "loop") -> str:
    """A name that can begin the name of a folder on every system: mine:problem becomes
    mine-problem."""
    return "-".join(re.findall(r"\w[\w.]*", name))[:60] or default


_Count = Annotated[int, msgspec.Meta(ge=1, lt=MOST_STEPS)]


class _Drawn(TypedDict):
    draw: Draw
    examples: NotRequired[_Count | None]


class _Problem(TypedDict, total=False):
    name: str
    model: str
    parameters: StepNumber
    fingerprint: str
    description: str
    optimizer: str


# A gauge that was given as an object.
class _Gauge(TypedDict):
    name: str
    path: str
    repr: str
    settings: NotRequired[str]


# The types of what readers look into, apart from `configuration` and `format`, without which there
# is no run.
KINDS: dict[str, Any] = {
    "name": str,
    "created": str,
    "made_by": str,
    "code": str,
    "versions": dict[str, str],
    "seeds": dict[str, int],
    "sampling": _Drawn,
    "probe": _Drawn,
    "layers": list[str],
    "mode": str,
    "ranks": _Count,
    "steps": _Count,
    "gauges": list[_Gauge],
    "problem": _Problem,
}


def read_manifest(path: Path) -> tuple[dict[str, Any], list[str]]:
    """The content of a `run.toml`, and a warning for each key that does not fit and was left out.

    Raises:
        OSError: It cannot be opened.
        RunDamaged: It is not TOML, or its `configuration` is not a table.
    """
    try:
        text = read_file(path).decode()
        content = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise RunDamaged(f"`{path}` is damaged: it is not valid TOML ({error}).") from error
    if not isinstance(content.setdefault("configuration", {}), dict):
        raise RunDamaged(f"`{path}` is damaged: `configuration` is not a table.")
    warnings = []
    for key in KINDS.keys() & content.keys():
        try:
            msgspec.convert(content[key], KINDS[key])
        except (msgspec.ValidationError, OverflowError) as error:
            warnings.append(
                f"{path.name}:{_line_of(key, text)}: `{key}` is damaged: left out ({error})."
            )
            del content[key]
    return content, warnings


def _line_of(key: str, text: str) -> int:
    """The number of the line of a table, or of a key above the first table; 1 if it is written in
    another way."""
    above = True
    for number, line in enumerate(text.splitlines(), start=1):
        above = above and not line.startswith("[")
        if re.match(rf"\[+{key}\]", line) or (above and re.match(rf"{key} *=", line)):
            return number
    return 1
