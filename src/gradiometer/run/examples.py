"""The losses of single held-out examples at each evaluation, so that two runs can be compared
example by example.

They lie in one file a run, 4 bytes a number. The event of the evaluation says at which byte its
numbers begin and how many there are.
"""

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from gradiometer.measurement.evaluation import PerExample
from gradiometer.storage.disk import append, open_to_read

FILE = "examples.f32"

KIND = np.dtype("<f4")
"""Single precision: a difference of two losses is then exact to a ten-millionth of them."""


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
