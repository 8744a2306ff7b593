"""The spread of the gradients of a step's parts: everything the noise formulas need, and no tensor."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int


@dataclass(frozen=True)
class Spread:
    """Squared norms of the gradients of the disjoint parts of one batch, and of their mean.

    Args:
        sizes: b_j, the number of examples in each part.
        squared_norms: ‖ĝ_j‖² of each part, by layer.
        mean_squared_norm: ‖ĝ‖² of the mean over all examples, by layer.
    """

    sizes: Int[np.ndarray, " parts"]
    squared_norms: Float[np.ndarray, "parts layers"]
    mean_squared_norm: Float[np.ndarray, " layers"]
