"""What an examination of a step has found, as it is kept with the run and as it is said."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from jaxtyping import Float

from gradiometer.drift.spikes.detection import Spike
from gradiometer.measurement.estimate import significant

EVENT = "loss_examined"
"""Name of the event."""

EXAMINATIONS = "examinations"
"""What the budget calls the time that examinations take."""

EARLY = 4
"""An examination this many steps before the first high loss belongs to the spike."""

ROSE, STAYED = 0.5, 0.2
"""The loss of other examples rose if it rose by at least this share of the rise; it stayed if by at most this one."""


@dataclass(frozen=True)
class Examined:
    """A step whose loss was far above the last ones.

    Args:
        loss: The loss of its batch.
        usual: The median of the losses before.
        size: Number of examples in the batch.
        examples: Places in the batch of the few examples with most of the rise; empty if there are no such few.
        share: The share of the rise of these examples, or of the heaviest eighth; None if it is not known.
        others_then: Loss of the batch before, at its own step; None if it is not known.
        others_now: Loss of the same examples at this step's parameters.
        norms_squared: Squared norm of the gradient of this batch by layer; empty if it is not known.
    """

    loss: float
    usual: float
    size: int
    examples: list[int]
    share: float | None
    others_then: float | None
    others_now: float | None
    norms_squared: list[float]

    @classmethod
    def within(cls, spike: Spike, events: Iterable[Mapping[str, Any]]) -> "Examined | None":
        """The first examination within a spike, whose places are steps; None if there was none."""
        names = {field.name for field in fields(cls)}
        for event in events:
            known = event.get("event") == EVENT and spike.first - EARLY <= event["step"] <= spike.last
            if known and names <= event.keys():
                return cls(**{name: event[name] for name in names})
        return None

    @property
    def others(self) -> float | None:
        """The rise of the loss on the examples of the batch before, as a share of the rise; None if not known."""
        if self.others_then is None or self.others_now is None or not self.loss > self.usual:
            return None
        return (self.others_now - self.others_then) / (self.loss - self.usual)

    @property
    def other_examples(self) -> str:
        """The loss of other examples, as a sentence; empty if it is not known."""
        if self.others_then is None or self.others_now is None:
            return ""
        return (
            f"On the examples of the batch before, the loss was {significant(self.others_then)} at their step and "
            f"{significant(self.others_now)} at the parameters of this one."
        )

    @property
    def heaviest_examples(self) -> str:
        """The examples that have the rise, as a sentence; empty if they are not known."""
        if self.share is None:
            return ""
        if not self.examples:
            spread = "The rise is spread over the batch: an" if self.share < ROSE else "An"
            return f"{spread} eighth of its examples has {self.share:.0%} of the rise."
        several = len(self.examples) > 1
        have, places = "have" if several else "has", ", ".join(map(str, self.examples))
        return (
            f"{len(self.examples)} of its {self.size} examples {have} {self.share:.0%} of the rise: "
            f"example{'s' * several} {places} of the batch."
        )

    def layer(self, layers: Sequence[str], usual: Float[np.ndarray, " layers"]) -> str:
        """The layer whose gradient is the longest of all compared with its usual length, as a sentence.

        Args:
            layers: Names of the layers.
            usual: Usual squared norm of the gradient of a batch, by layer.
        """
        now = np.array(self.norms_squared)
        if len(layers) < 2 or now.shape != usual.shape or not (usual > 0).all():
            return ""
        ratios = np.sqrt(now / usual)
        layer = int(ratios.argmax())
        return (
            f"The gradient of {layers[layer]} was {significant(float(ratios[layer]), 2)} times as long as usual, the "
            "most of all layers."
        )
