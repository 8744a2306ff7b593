"""A result that a run keeps as a file of its own, such as a certificate."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class Artifact:
    """Numbers and words that a run keeps in a file; `gradiometer.run` saves and loads it."""

    files: ClassVar[str]
    """File within the run. A `*` stands for the step, for kinds of which a run may have several."""

    labels: ClassVar[Mapping[str, str]] = {}
    """Labels of its estimates, in the order of the page's table."""

    symbols: ClassVar[Mapping[str, str]] = {}
    """Short symbols for estimates that a chart marks as a threshold."""
