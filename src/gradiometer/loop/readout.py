"""`Readout`: one number that a model is judged by."""

import base64
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

# Parts of the names of metrics that are better if they are higher.
HIGHER_IS_BETTER = (
    "accuracy",
    "acc",
    "auc",
    "auroc",
    "f1",
    "score",
    "precision",
    "recall",
    "bleu",
    "rouge",
    "r2",
)


def lower_is_better(name: str) -> bool:
    """False if the name of a metric says that higher values are better, such as "accuracy" or
    "val_auc"."""
    words = name.lower().replace("-", "_").split("_")
    return not any(word.startswith(HIGHER_IS_BETTER) for word in words)


@dataclass(frozen=True, eq=False)
class Readout:
    """One number that a model is judged by at the end of a branch.

    Args:
        mean: The number.
        values: Its value for every example, whose mean it is, if there are such values.
        lower_is_better: True for a loss, False for an accuracy.

    >>> from gradiometer.loop.readout import Readout
    >>> Readout.of(np.array([0.0, 1.0]), lower_is_better=False).mean
    0.5
    """

    mean: float
    values: Float[np.ndarray, " examples"] | None = None
    lower_is_better: bool = True

    @classmethod
    def of(
        cls, values: Float[np.ndarray, " examples"], *, lower_is_better: bool = True
    ) -> "Readout":
        """The readout with these values, kept in single precision."""
        with np.errstate(over="ignore"):  # a loss beyond single precision is inf
            each = values.astype(np.float32)
        return cls(float(np.mean(values, dtype=np.float64)), each, lower_is_better)

    @property
    def cost(self) -> float:
        """The number, with the sign with which lower is better."""
        return self.mean if self.lower_is_better else -self.mean


def pack_values(values: Float[np.ndarray, " examples"]) -> str:
    """The values as a file has them: base64 of float32, little-endian."""
    return base64.b64encode(values.astype("<f4").tobytes()).decode()


def unpack_values(_: type, text: str) -> Float[np.ndarray, " examples"]:
    """The inverse of `pack_values`."""
    return np.frombuffer(base64.b64decode(text), dtype="<f4").astype(np.float32)
