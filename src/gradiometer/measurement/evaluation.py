"""An evaluation on held-out examples."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from gradiometer.measurement.estimate import Estimate

PerExample = Float[np.ndarray, " examples"]


class Evaluation(NamedTuple):
    """An evaluation on held-out examples.

    Attributes:
        estimates: The means, by name, such as "test_loss".
        examples: The numbers of single examples under the same names, if they are known.
    """

    estimates: Mapping[str, Estimate]
    examples: Mapping[str, PerExample]
