"""Write src/gradiometer/problems/data/digits.npz from scikit-learn's copy of the UCI digits.

Run once, with scikit-learn installed. The split is drawn here and kept in the file, so that it does not move with
the random numbers of a later NumPy.
"""

from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

DESTINATION = Path(__file__).parents[1] / "src" / "gradiometer" / "problems" / "data" / "digits.npz"
HELD_OUT = 360
SEED = 0


def stratified(labels: np.ndarray, held_out: int, generator: np.random.Generator) -> np.ndarray:
    """Which examples are held out: of every class its share, the largest remainders rounded up."""
    shares = np.bincount(labels) * held_out / len(labels)
    counts = np.floor(shares).astype(int)
    counts[np.argsort(counts - shares, kind="stable")[: held_out - counts.sum()]] += 1
    chosen = np.zeros(len(labels), dtype=bool)
    for label, count in enumerate(counts):
        chosen[generator.permutation(np.flatnonzero(labels == label))[:count]] = True
    return chosen


def main() -> None:
    """Write the file."""
    digits = load_digits()
    labels = digits.target.astype(np.uint8)
    DESTINATION.parent.mkdir(exist_ok=True)
    np.savez_compressed(
        DESTINATION,
        images=digits.images.astype(np.uint8),
        labels=labels,
        held_out=stratified(labels, HELD_OUT, np.random.default_rng(SEED)),
    )


if __name__ == "__main__":
    main()
