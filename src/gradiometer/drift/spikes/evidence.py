"""What speaks for a cause of a spike, as data; and what an examination of a step has found."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from jaxtyping import Float

from gradiometer.drift.spikes.detection import Spike

# Name of the event.
EVENT = "loss_examined"

# What the budget calls the time that examinations take.
EXAMINATIONS = "examinations"

# The loss of other examples rose if it rose by at least this share of the rise; it stayed if by at
# most this one.
ROSE, STAYED = 0.5, 0.2


@dataclass(frozen=True)
class Observation:
    """Something that speaks for or against a cause of a spike.

    Args:
        kind: Its name in the table of words.
        facts: What fills the slots of its sentence.
    """

    kind: str
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Examined:
    """A step whose loss was far above the last ones.

    Args:
        loss: The loss of its batch.
        usual: The median of the losses before.
        size: Number of examples in the batch.
        examples: Places in the batch of the few examples with most of the rise; empty if there are
            no such few.
        share: The share of the rise of these examples, or of the heaviest eighth; None if it is not
            known.
        others_then: Loss of the batch before, at its own step; None if it is not known.
        others_now: Loss of the same examples at this step's parameters.
        norms_squared: Squared norm of the gradient of this batch by layer; empty if it is not
            known.
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
        for event in events:
            # 4: an examination this many steps before the first high loss belongs to the spike.
            if event["event"] == EVENT and spike.first - 4 <= event["step"] <= spike.last:
                return cls(**{field.name: event[field.name] for field in fields(cls)})
        return None

    @property
    def others(self) -> float | None:
        """The rise of the loss on the examples of the batch before, as a share of the rise; None if
        not known."""
        if self.others_then is None or self.others_now is None or not self.loss > self.usual:
            return None
        return (self.others_now - self.others_then) / (self.loss - self.usual)

    @property
    def other_examples(self) -> Observation | None:
        """The loss of other examples; None if it is not known."""
        if self.others_then is None or self.others_now is None:
            return None
        return Observation("other_examples", {"then": self.others_then, "now": self.others_now})

    @property
    def heaviest_examples(self) -> Observation | None:
        """The examples that have the rise; None if they are not known."""
        if self.share is None:
            return None
        if not self.examples:
            return Observation("heaviest_eighth", {"share": self.share})
        facts = {"examples": tuple(self.examples), "size": self.size, "share": self.share}
        return Observation("heaviest_examples", facts)

    def layer(
        self, layers: Sequence[str], usual: Float[np.ndarray, " layers"]
    ) -> Observation | None:
        """The layer whose gradient is the longest of all compared with its usual length; None if it
        is not known.

        Args:
            layers: Names of the layers.
            usual: Usual squared norm of the gradient of a batch, by layer.
        """
        now = np.array(self.norms_squared)
        if len(layers) < 2 or now.shape != usual.shape or not (usual > 0).all():
            return None
        ratios = np.sqrt(now / usual)
        layer = int(ratios.argmax())
        return Observation("longest_layer", {"layer": layers[layer], "times": float(ratios[layer])})
