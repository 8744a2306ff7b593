"""What a run keeps besides its readings: results in files of their own, such as a certificate, and
evaluations on held-out examples."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
from jaxtyping import Float

from gradiometer.measurement.estimate import Estimate


@dataclass(frozen=True)
class Artifact:
    """A result that `gradiometer.run` saves in a file of the run and loads from it."""

    # File name within the run. A `*` stands for the step, if a run may have several.
    files: ClassVar[str]


PerExample = Float[np.ndarray, " examples"]


class Evaluation(NamedTuple):
    """An evaluation on held-out examples.

    Attributes:
        estimates: The means, by name, such as "test_loss".
        examples: The numbers of single examples under the same names, if they are known.
    """

    estimates: Mapping[str, Estimate]
    examples: Mapping[str, PerExample]
