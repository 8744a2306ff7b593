"""Predictions of networks that were never trained, and labels that fit them."""

import numpy as np
from scipy.special import log_softmax


def made_up(
    seed: int, examples: int = 400, classes: int = 4, sharpness: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Log-probabilities, and labels drawn from them: calibrated where `sharpness` is 1, too sure
    above."""
    generator = np.random.default_rng(seed)
    logits = 1.5 * generator.standard_normal((examples, classes))
    truth = np.exp(log_softmax(logits, axis=1))
    labels = (truth.cumsum(1) < generator.random((examples, 1))).sum(1).clip(max=classes - 1)
    return log_softmax(sharpness * logits, axis=1), labels
