"""Estimates along a run, made when a page asks for them."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property

from gradiometer.gauges import is_ours
from gradiometer.measurement.estimate import Estimate
from gradiometer.measurement.gauge import Gauge, estimates_of
from gradiometer.measurement.reading import Series
from gradiometer.problems.user_code import user_code

Curve = tuple[tuple[int, Estimate], ...]


@dataclass(frozen=True, eq=False)
class Curves(Mapping[str, Curve]):
    """For each quantity, pairs of a step and the estimate of its value there.

    They are made when one is asked for: they take six sevenths of the time of a whole diagnosis,
    and only pages show them.

    Args:
        readings: Gauges, each with its readings up to points along the run.
        level: Confidence level.
    """

    readings: Sequence[tuple[Gauge, Sequence[Series]]]
    level: float

    @cached_property
    def _curves(self) -> Mapping[str, Curve]:
        found: dict[str, list[tuple[int, Estimate]]] = {}
        for gauge, parts in self.readings:
            with errors_of_gauge(gauge):
                for part in parts:
                    then = estimates_of(gauge, part.at_newest(by_layer=False), self.level)
                    for name, estimate in then.items():
                        found.setdefault(name, []).append((int(part.steps[-1]), estimate))
        return {name: tuple(points) for name, points in found.items()}

    def __getitem__(self, name: str) -> Curve:
        return self._curves[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._curves)

    def __len__(self) -> int:
        return len(self._curves)


def errors_of_gauge(gauge: Gauge) -> AbstractContextManager[object]:
    """A context in which errors are those of a person's gauge, unless it is one of ours."""
    if is_ours(gauge):
        return nullcontext()
    return user_code(f"{type(gauge).__name__}.estimate")
