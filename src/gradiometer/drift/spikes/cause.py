"""The likely cause of a spike: this batch, or an instability of the training; the evidence for it;
and the finding.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any

import numpy as np
from jaxtyping import Float

from gradiometer.drift.spikes.detection import Spike
from gradiometer.drift.stability import MomentumRule
from gradiometer.estimation.products import PRODUCT
from gradiometer.measurement import Finding, Issue, Series, State

# Name of the event.
EVENT = "loss_examined"

# What the budget calls the time that examinations take.
EXAMINATIONS = "examinations"

# The loss of other examples rose if it rose by at least this share of the rise.
ROSE = 0.5


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


class Cause(StrEnum):
    """What a spike is due to."""

    THIS_BATCH = "this batch"
    INSTABILITY = "instability"
    UNKNOWN = "cannot tell"


@dataclass(frozen=True)
class Explanation:
    """The likely cause of a spike, with its evidence."""

    cause: Cause
    evidence: tuple[Observation, ...]


def explain(
    spike: Spike,
    *,
    batches: float = 1.0,
    examined: Examined | None = None,
    readings: Sequence[Observation | None] = (),
    same_examples: bool = False,
) -> Explanation:
    """The cause that the losses around a spike, or an examination of its first step, speak for.

    The next batches hold other examples. If their losses did not rise, only the examples of this
    batch were unusual. If they rose too, and the highest loss came later than the first, the
    parameters moved.

    Args:
        spike: The spike.
        batches: Number of batches whose mean is one loss: 1, or more in a log that averages.
        examined: An examination within the spike. It decides if the loss rose on other examples.
        readings: Further evidence; None is left out.
        same_examples: True if every batch has the same examples, such as the whole training set.
    """
    if same_examples:
        return _explanation(Cause.INSTABILITY, Observation("same_examples"), *readings)
    share = None if examined is None else examined.others
    if examined is not None:
        readings = (examined.other_examples, examined.heaviest_examples, *readings)
    if share is not None and share >= ROSE:
        return _explanation(Cause.INSTABILITY, *readings)
    if share is not None and share <= 0.2:
        after = Observation("moved_by_its_update") if spike.length > 1 else None
        return _explanation(Cause.THIS_BATCH, after, *readings)
    cause = Cause.UNKNOWN
    if spike.length == 1 and batches > 1:
        why = Observation("mean_of_steps", {"steps": batches})
    elif spike.length == 1 and not spike.ended:
        why = Observation("last_loss")
    elif spike.length == 1:
        cause, why = Cause.THIS_BATCH, Observation("batches_beside_it")
    elif spike.peak > spike.first and spike.length >= 3:
        others = spike.length - 1 if batches <= 1 else None
        cause, why = Cause.INSTABILITY, Observation("highest_later", {"other_batches": others})
    else:
        why = Observation("highest_first" if spike.peak == spike.first else "two_batches")
    return _explanation(cause, why, *readings)


def _explanation(cause: Cause, *evidence: Observation | None) -> Explanation:
    return Explanation(cause, tuple(each for each in evidence if each is not None))


def sharpness_near(spike: Spike, series: Series, kind: MomentumRule) -> Observation | None:
    """η times the batch sharpness against its edge, at the last reading before the end of the
    spike; None without one.

    Args:
        spike: Its places are steps.
        series: The readings of the gauge `batch_sharpness`.
        kind: The kind of SGD.
    """
    at = int(np.searchsorted(series.steps, spike.last, side="right")) - 1
    # 3: a reading at most this many times the usual distance of readings away is near.
    if at < 0 or spike.last - series.steps[at] > 3 * max(series.spacing, 1):
        return None
    if series.moments["norm_squared"][at] <= 0:
        return None
    sharpness = series.moments["curvature"][at] / series.moments["norm_squared"][at]
    return Observation(
        "sharpness",
        {
            "step": int(series.steps[at]),
            "product": float(series.learning_rate[at] * sharpness),
            "edge": kind.limit,
        },
    )


def layer_near(spike: Spike, series: Series) -> Observation | None:
    """The layer whose gradient rose most at a reading within the spike; None if none is known.

    Args:
        spike: Its places are steps.
        series: The readings of the gauge `noise`, with several layers.
    """
    inside = np.flatnonzero((series.steps >= spike.first) & (series.steps <= spike.last + 1))
    usual = usual_norms(spike.first, series)
    if not len(inside) or usual is None or not len(usual) == len(series.layers) > 1:
        return None
    squares = _squared_norms(series)
    highest = squares[inside].max(axis=0)
    known = (usual > 0) & (highest > 0)
    if not known.any():
        return None
    ratios = np.where(known, np.sqrt(np.where(known, highest, 1) / np.where(known, usual, 1)), 0)
    layer = int(ratios.argmax())
    # 2.0: A layer's gradient that is this many times as long as usual is named.
    if ratios[layer] < 2.0:
        return None
    step = int(series.steps[inside[squares[inside, layer].argmax()]])
    facts = {"step": step, "layer": series.layers[layer], "times": float(ratios[layer])}
    return Observation("longest_layer_at_step", facts)


def usual_norms(step: int, series: Series) -> Float[np.ndarray, " layers"] | None:
    """The median squared norm of a batch's gradient by layer, in the last readings before a step;
    None without any."""
    before = int(np.searchsorted(series.steps, step))
    # 20: number of readings before a spike that show the usual length.
    squares = _squared_norms(series)[max(before - 20, 0) : before]
    return np.median(squares, axis=0) if len(squares) else None


def _squared_norms(series: Series) -> Float[np.ndarray, "steps layers"]:
    """E‖ĝ‖² = ‖g‖² + tr Σ / B by layer, or in total if it was read from products."""
    if PRODUCT in series.moments:
        return series.moments["squared"].reshape(len(series), -1)
    noise = series.moments["gradient_variance"] / series.batch_size[:, None]
    return np.asarray(series.moments["gradient_norm_squared"] + noise)


GAUGE = "spikes"

CLAIMS = {
    Cause.THIS_BATCH: "bad_batch",
    Cause.INSTABILITY: "unstable",
    Cause.UNKNOWN: "spike_of_unknown_cause",
}


def spikes_finding(
    spikes: Sequence[Spike], explain: Callable[[Spike], Explanation], name: str = "The loss"
) -> Finding:
    """One finding about all spikes. Only the clearest one is explained.

    Args:
        spikes: At least one, whose places are steps.
        explain: Finds the likely cause of a spike.
        name: Name of the loss.
    """
    highest = clearest(spikes)
    explanation = explain(highest)
    # 10: A spike at the end of the record that lasts for so many losses asks for action.
    lasting = not spikes[-1].ended and spikes[-1].length >= 10
    facts = {
        "loss": name,
        "starts": tuple(spike.first for spike in spikes),
        "first": highest.first,
        "peak": highest.peak,
        "length": highest.length,
        "level": highest.level,
        "height": highest.height,
        "ended": highest.ended,
        "evidence": explanation.evidence,
    }
    state = State.ACT if lasting else State.LOOK
    return Finding(GAUGE, Issue.DRIFT, CLAIMS[explanation.cause], state, facts=facts)


def clearest(spikes: Sequence[Spike]) -> Spike:
    """The spike that is farthest above what noise does."""
    # a record that is nearly all zeros has no noise, and the limit of its spikes is 0
    return max(spikes, key=lambda spike: spike.score / spike.limit if spike.limit else math.inf)
