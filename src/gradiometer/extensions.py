"""What gradiometer has by name, and what other packages add to it: gauges, commands, sections of
the page, words, requests of a watch, findings, checks, pools and problems.

A package names what it adds in its metadata, as entry points of a group. Nothing is imported before
it is asked for, and the installed packages are searched once. One that cannot be loaded is named in
a warning and left out.

    [project.entry-points."gradiometer.gauges"]
    long_share = "my_package:LongShare"
"""

import warnings
from collections.abc import Callable, ItemsView, Iterator, Mapping, ValuesView
from difflib import get_close_matches
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar

from gradiometer.errors import ran_out_of_memory, summary

Entry = TypeVar("Entry")

# The distribution that gradiometer itself comes with.
OURS = "gradiometer"


class Registry(Mapping[str, Entry], Generic[Entry]):
    """Everything of one kind by its name: what is built in, then what installed packages add.

    Iterating lists the names and imports nothing. An added one is imported when it is looked up,
    once. One that cannot be imported is as if it were not there.

    Args:
        group: Name of the group of entry points.
        kind: What each one is, for messages, such as "gauge".
        built_in: Those of this package. A name in it cannot be added again.
        check: Takes a name and what was imported. Returns why it cannot be used, as the end of a
            sentence such as "is no gauge"; empty if it can.

    Example:
        >>> from gradiometer.extensions import Registry
        >>> colours = Registry("example.colours", "colour", {"red": 1})
        >>> list(colours), colours["red"], "blue" in colours
        (['red'], 1, False)
    """

    def __init__(
        self,
        group: str,
        kind: str,
        built_in: Mapping[str, Entry] | None = None,
        check: Callable[[str, Any], str] = lambda name, found: "",
    ) -> None:
        self.group = group
        self.kind = kind
        self.built_in = dict(built_in or {})
        self._check = check
        self._loaded: dict[str, Entry | None] = {}
        _REGISTRIES.append(self)

    def __getitem__(self, name: str) -> Entry:
        if name in self.built_in:
            return self.built_in[name]
        if name not in self._loaded:
            self._loaded[name] = self._load(_added(self.group)[name])
        found = self._loaded[name]
        if found is None:
            raise KeyError(name)
        return found

    def __iter__(self) -> Iterator[str]:
        yield from self.built_in
        for name in _added(self.group):
            failed = name in self._loaded and self._loaded[name] is None
            if name not in self.built_in and not failed:
                yield name

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __contains__(self, name: object) -> bool:
        return name in self.built_in or any(name == each for each in self)

    def items(self) -> ItemsView[str, Entry]:
        """The names with what they stand for, all of them imported."""
        found = {name: self.get(name) for name in tuple(self)}
        return {name: each for name, each in found.items() if each is not None}.items()

    def values(self) -> ValuesView[Entry]:
        """What the names stand for, all of it imported."""
        return dict(self.items()).values()

    def is_ours(self, name: str) -> bool:
        """True if it comes with gradiometer, so that an error in it is a bug of ours."""
        found = _added(self.group).get(name)
        return name in self.built_in or (found is not None and _distribution(found) == OURS)

    def nearest(self, wanted: str) -> str:
        """For a message about an unknown name: the nearest one, if one is near, and all names."""
        close = get_close_matches(wanted, self, n=1)
        names = ", ".join(self) or "none"
        return f"did you mean {close[0]}? Available: {names}" if close else f"available: {names}"

    def _load(self, point: EntryPoint) -> Entry | None:
        try:
            found: Entry = point.load()
            reason = self._check(point.name, found)
        except Exception as error:
            if ran_out_of_memory(error):
                raise
            reason = f"could not be imported: {summary(error)}"
        if not reason:
            return found
        warnings.warn(
            f"The {self.kind} {point.name} of {_distribution(point)} is left out: {point.value} "
            f"{reason}.",
            RuntimeWarning,
            stacklevel=4,
        )
        return None


def forget() -> None:
    """Forget what was found. The next look searches the installed packages again."""
    _added.cache_clear()
    for registry in _REGISTRIES:
        registry._loaded.clear()


@cache
def _added(group: str) -> dict[str, EntryPoint]:
    """The entry points of a group by name: those of gradiometer in front, then in the order of the
    names. Of two with one name the first counts, and a warning names the other."""
    found: dict[str, EntryPoint] = {}
    for point in sorted(
        entry_points(group=group),
        key=lambda each: (_distribution(each) != OURS, each.name, _distribution(each)),
    ):
        if point.name in found:
            warnings.warn(
                f"{point.name} of {_distribution(point)} is left out of {group}: the name is "
                f"already that of {_distribution(found[point.name])}.",
                RuntimeWarning,
                stacklevel=4,
            )
        else:
            found[point.name] = point
    return found


def _distribution(point: EntryPoint) -> str:
    return "an unknown package" if point.dist is None else point.dist.name


_REGISTRIES: list[Registry[Any]] = []
