"""A result that a run keeps in its own file, such as a certificate."""

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class Artifact:
    """A result that `gradiometer.run` saves in a file of the run and loads from it."""

    # File name within the run. A `*` stands for the step, if a run may have several.
    files: ClassVar[str]
