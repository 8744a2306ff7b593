"""The catalogue of gauges, custom gauges, and the gauges that a run was measured with."""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from difflib import get_close_matches
from typing import Any

from msgspec import structs

from gradiometer.convergence.trajectory.trajectory import Trajectory
from gradiometer.drift.batch_sharpness import BatchSharpness, PreconditionedSharpness
from gradiometer.errors import BadArgument
from gradiometer.estimation.noise import GradientNoise, NoiseSources
from gradiometer.estimation.preconditioned_noise import PreconditionedNoise
from gradiometer.extensions import Registry
from gradiometer.measurement.finding import Issue
from gradiometer.measurement.gauge import Gauge
from gradiometer.measurement.optimizer.groups import Group, family_of
from gradiometer.problems.user_code import user_code, user_module
from gradiometer.run.configuration import OPTIMIZERS, Configuration, WatchedConfiguration
from gradiometer.run.reader import Run


def _why_no_gauge(name: str, found: object) -> str:
    if not (isinstance(found, type) and issubclass(found, Gauge)):
        return "is no subclass of Gauge"
    return "" if found.name == name else f"is named {found.name!r}"


GAUGES: Registry[type[Gauge]] = Registry(
    "gradiometer.gauges",
    "gauge",
    {
        gauge.name: gauge
        for gauge in (
            *(GradientNoise, PreconditionedNoise, NoiseSources),
            *(BatchSharpness, PreconditionedSharpness),
            Trajectory,
        )
    },
    _why_no_gauge,
)
"""The catalogue: the gauges of the package and of installed packages. The keys are their names."""

GaugesAsked = str | Sequence[str | Gauge]
"""Comma-separated names, or a list of names and gauge objects. `module:Class` names a
custom gauge."""


@dataclass(frozen=True)
class Asked:
    """The gauges that the user has requested.

    Attributes:
        names: Names of all of them, in order, without repeats.
        given: Those that were given as objects.
        by_default: True if nobody asked, and these are what the loop allows.

    >>> Asked.of("noise, trajectory").names
    ('noise', 'trajectory')
    """

    names: tuple[str, ...]
    given: tuple[Gauge, ...] = ()
    by_default: bool = False

    @classmethod
    def of(cls, gauges: GaugesAsked) -> "Asked":
        """Check names and objects.

        Raises:
            BadArgument: A name is unknown, or an object is not a gauge or lacks a class attribute.
        """
        if isinstance(gauges, Gauge | type) or not isinstance(gauges, Iterable):
            raise BadArgument(
                f"`gauges` must be a list of names and gauge objects, got {gauges!r} alone: write "
                "it in [ ]."
            )
        listed = gauges.split(",") if isinstance(gauges, str) else list(gauges)
        asked = [
            imported_gauge(one) if isinstance(one, str) and ":" in one else one for one in listed
        ]
        given = tuple(_check(one) for one in asked if not isinstance(one, str))
        own = {gauge.name for gauge in given}
        if len(own) < len(given):
            raise BadArgument(
                f"`gauges` has two gauges named {sorted(gauge.name for gauge in given)[0]}: give "
                "one."
            )
        names = [one.strip() if isinstance(one, str) else one.name for one in asked]
        for name in names:
            if name and name not in GAUGES and name not in own:
                close = get_close_matches(name, GAUGES, n=1)
                hint = f" Did you mean {close[0]!r}?" if close else ""
                raise BadArgument(
                    f"`gauges` has the unknown name {name!r}.{hint} Available: {', '.join(GAUGES)}."
                )
        return cls(tuple(dict.fromkeys(name for name in names if name)), given)

    @property
    def kinds(self) -> tuple[type[Gauge], ...]:
        """The classes of the gauges."""
        given = {gauge.name: type(gauge) for gauge in self.given}
        return tuple(given.get(name) or GAUGES[name] for name in self.names)

    def refuse_under(self, optimizer: str) -> None:
        """Refuse gauges that do not work under this optimizer of `train`.

        Raises:
            BadArgument: A gauge needs another optimizer.
        """
        for kind in self.kinds:
            is_adaptive = family_of([OPTIMIZERS[optimizer].class_name]) == "adaptive"
            if kind.needs_preconditioner and not is_adaptive:
                raise BadArgument(
                    f"`gauges` names {kind.name}, which needs the preconditioner of Adam or its "
                    f"kind, and `optimizer` is {optimizer}: leave it out, or use adamw."
                )
            if kind.sgd_only and optimizer != "sgd":
                raise BadArgument(
                    f"`gauges` names {kind.name}, whose {kind.sgd_only} is known for SGD, and "
                    f"`optimizer` is {optimizer}: leave it out."
                )

    def made(
        self, configuration: Configuration | WatchedConfiguration, groups: Sequence[Group] = ()
    ) -> tuple[Gauge, ...]:
        """The gauges: objects as they were given, the others with settings from the configuration.

        Args:
            configuration: The configuration of the run.
            groups: The settings of the optimizer when training began; needed for a watched loop.
        """
        given = {gauge.name: gauge for gauge in self.given}
        settings = _settings_of(configuration, groups)
        return tuple(
            given[name] if name in given else _from_catalogue(name, settings) for name in self.names
        )

    def manifest(self) -> list[dict[str, str]]:
        """Records of the objects for `run.toml`: name, import path, `repr`, and settings if JSON
        can store them."""
        records = []
        for gauge in self.given:
            record = {"name": gauge.name, "path": path_of(type(gauge)), "repr": repr(gauge)}
            with suppress(TypeError, ValueError):  # not every setting is a value of JSON
                settings = {field.name: getattr(gauge, field.name) for field in fields(gauge)}
                record["settings"] = json.dumps(settings)
            records.append(record)
        return records


def recorded_gauges(run: Run) -> tuple[tuple[Gauge, ...], dict[str, str]]:
    """The gauges that a run was measured with, as far as their classes are available.

    The class of a custom gauge is used if it was given to `Run.open` or if the program has imported
    it already. Nothing is imported because a run folder names it, as the folder may come from
    anybody.

    Returns:
        The gauges, and for the others a mapping from name to import path, which is empty for a
        gauge that an installed package had.
    """
    records = {record["name"]: record for record in run.manifest.get("gauges", [])}
    recorded = run.hyperparameters
    settings = _settings_of(run.configuration, () if recorded is None else recorded.groups[0])
    found: list[Gauge] = []
    missing: dict[str, str] = {}
    for name in dict.fromkeys(name.strip() for name in run.configuration.measured.split(",")):
        gauge = _restore(name, records.get(name), run, settings)
        if gauge is not None:
            found.append(gauge)
        elif name:
            missing[name] = records[name]["path"] if name in records else ""
    return tuple(found), missing


def labels_of(gauges: Iterable[Gauge], issue: Issue | None = None) -> dict[str, str]:
    """Labels of the quantities of the built-in gauges and of these.

    Args:
        gauges: Gauges that a run was measured with.
        issue: If given, only labels of gauges for this issue of SGD.

    >>> labels_of([])["noise_scale"]
    'gradient noise scale, tr Σ / ‖g‖²'
    """
    kinds: dict[type[Gauge], None] = dict.fromkeys((*GAUGES.built_in.values(), *map(type, gauges)))
    return {
        name: label
        for kind in kinds
        if issue in (None, kind.issue)
        for name, label in kind.labels.items()
    }


def is_ours(gauge: Gauge) -> bool:
    """True if the gauge comes with gradiometer: an error in it is then none of the user's code."""
    return GAUGES.is_ours(gauge.name) and GAUGES.get(gauge.name) is type(gauge)


def path_of(kind: type) -> str:
    """Import path of a class, `module:Class`."""
    return f"{kind.__module__}:{kind.__qualname__}"


def _check(gauge: object) -> Gauge:
    if isinstance(gauge, type) and issubclass(gauge, Gauge):
        name = gauge.__name__
        raise BadArgument(
            f"`gauges` must hold gauge objects, got the class {name}: write {name}()."
        )
    if not isinstance(gauge, Gauge):
        raise BadArgument(
            f"`gauges` must hold names and gauge objects, got {type(gauge).__name__}."
        )
    for attribute, kind in (("name", str), ("issue", Issue), ("unit", str)):
        if not isinstance(getattr(gauge, attribute, None), kind):
            raise BadArgument(
                f"`gauges`: {type(gauge).__name__} needs `{attribute}`, a class attribute of type "
                f"{kind.__name__}."
            )
    if not gauge.name.isidentifier() or (
        gauge.name in GAUGES and type(gauge) is not GAUGES.get(gauge.name)
    ):
        raise BadArgument(
            f"`gauges`: {type(gauge).__name__} is named {gauge.name!r}: rename it to an identifier "
            "that no gauge of the catalogue has."
        )
    return gauge


def imported_gauge(path: str) -> Gauge:
    """A custom gauge, given as `module:Class`, with its default settings. The module is imported.

    Raises:
        BadArgument: There is no such module or class.
    """
    module, _, qualified = path.strip().partition(":")
    kind = getattr(user_module(module), qualified, None)
    if not (isinstance(kind, type) and issubclass(kind, Gauge)):
        raise BadArgument(f"`gauges`: the module {module} has no gauge class {qualified!r}.")
    with user_code(f"{qualified}()"):
        return kind()


def _settings_of(
    configuration: Configuration | WatchedConfiguration, groups: Sequence[Group]
) -> dict[str, Any]:
    """The settings that gauges take from a run: those of the configuration, or else of the first
    group."""
    optimizer = asdict(groups[0]) if groups else {}
    return (
        {"momentum": 0.0, "nesterov": False, "weight_decay": 0.0}
        | optimizer
        | structs.asdict(configuration)
    )


def _from_catalogue(name: str, known: Mapping[str, Any]) -> Gauge:
    kind = GAUGES[name]
    settings = {field: known[field] for field in kind.from_run}
    if settings.get("parts") == 0:
        settings["parts"] = None  # one part per example
    elif "parts" in settings and settings["parts"] is None:
        del settings["parts"]  # the default of the gauge
    return kind(**settings)


def _restore(
    name: str, record: Mapping[str, Any] | None, run: Run, settings: Mapping[str, Any]
) -> Gauge | None:
    for known in run.known_gauges:
        if getattr(known, "name", None) == name and isinstance(known, Gauge):
            return known
    if record is None:
        return _from_catalogue(name, settings) if name in GAUGES else None
    kinds = {path_of(kind): kind for kind in run.known_gauges if isinstance(kind, type)}
    path: str = record["path"]
    module, _, qualified = path.partition(":")
    kind = kinds.get(path) or getattr(sys.modules.get(module), qualified, None)
    known_kind = GAUGES.get(name)
    if kind is None and known_kind is not None and known_kind.__qualname__ == qualified:
        # an installed one; its module may have moved since the run was made
        kind = known_kind
    if not (isinstance(kind, type) and issubclass(kind, Gauge)):
        return None
    try:
        gauge = kind(**json.loads(record.get("settings", "{}")))
    except (TypeError, ValueError):
        return None
    return gauge if repr(gauge) == record["repr"] else None
