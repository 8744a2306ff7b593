"""`Readout`: one number that a model is judged by."""

import base64
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

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

    def to_dict(self) -> dict[str, Any]:
        """The readout as JSON types: the values as base64 of float32, little-endian."""
        values = (
            None
            if self.values is None
            else base64.b64encode(self.values.astype("<f4").tobytes()).decode()
        )
        return {
            "mean": plain_number(self.mean),
            "values": values,
            "lower_is_better": self.lower_is_better,
        }

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> "Readout":
        """The readout from the result of `to_dict`."""
        text = stored["values"]
        values = (
            None
            if text is None
            else np.frombuffer(base64.b64decode(text), dtype="<f4").astype(np.float32)
        )
        return cls(float(stored["mean"]), values, bool(stored["lower_is_better"]))


def plain_number(value: float) -> float | str:
    """A number for JSON, which has no infinity and no NaN."""
    return value if math.isfinite(value) else str(value)
