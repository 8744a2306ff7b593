"""The spread of micro-batch gradients within one step: all the noise formulas need, and nothing model-sized."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int


@dataclass(frozen=True)
class Spread:
    """Squared norms of the gradients of the disjoint micro-batches of one step, and of their mean.

    Args:
        sizes: b_j, examples in each micro-batch.
        squared_norms: ‖ĝ_j‖² of each micro-batch, by layer.
        mean_squared_norm: ‖ĝ‖² of the mean over all examples, by layer.
    """

    sizes: Int[np.ndarray, " parts"]
    squared_norms: Float[np.ndarray, "parts layers"]
    mean_squared_norm: Float[np.ndarray, " layers"]
