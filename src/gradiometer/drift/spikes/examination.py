"""Examine a step whose loss is far above the last ones, before its update changes the
parameters."""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from statistics import median_high
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gradiometer.drift.spikes.cause import Examined
from gradiometer.measurement.batch import Batch, batch_size, mapped, span
from gradiometer.measurement.objective import Objective
from gradiometer.measurement.parts import squared_norms
from gradiometer.measurement.uncertainty.means import OF_MEDIAN_DEVIATION

# A loss is examined if it is above the usual one by so many spreads.
SPREADS = 8.0

# Fewest steps between two examinations.
PAUSE = 64

# Parts of a batch that are run first.
PARTS = 8


@dataclass(frozen=True)
class Before:
    """The step before: its batch and its loss at that step."""

    batch: Batch
    loss: float


class Examiner:
    """Decides which steps are examined, and examines them.

    An examination runs the loss of this batch, of its single examples, and of the batch before it
    once more at the present parameters, without gradients. It changes nothing in the training.

    Args:
        objective: The model and its loss.
        seed: Seed of the random numbers that the loss draws.
    """

    def __init__(self, objective: Objective, seed: int = 0) -> None:
        self._objective = objective
        self._seed = seed
        self._recent: deque[float] = deque(maxlen=256)
        self._usual = self._above = math.inf
        self._new = self._count = self._steps = 0
        # A loss at or above this one is worth an examination. Infinite if none is.
        self.limit = math.inf

    def learn(self, losses: Sequence[float]) -> None:
        """Take the losses of finished steps. After 64 of them or more, the usual level is computed
        anew."""
        self._recent.extend(filter(math.isfinite, losses))
        self._new += len(losses)
        # An unstable start should not use up the examinations of a long run.
        # After so many steps one more examination in a row is allowed.
        more, self._steps = divmod(self._steps + len(losses), 1000)
        self._count = max(self._count - more, 0)
        if self._new < PAUSE:
            return
        self._new = 0
        if self._count < 5 and len(self._recent) >= 64:
            self._usual = median_high(self._recent)
            spread = OF_MEDIAN_DEVIATION * median_high(
                [abs(recent - self._usual) for recent in self._recent]
            )
            self.limit = self._usual + max(SPREADS * spread, 0.2 * abs(self._usual))

    def repeat(self, losses: Sequence[float]) -> None:
        """Take the losses of the steps before a resume, without the examinations that they had."""
        for loss in losses:
            if not -math.inf < loss < self.limit:
                self.pause()
            self.learn([loss])

    @property
    def awaits(self) -> int:
        """The number of losses after which the usual level is computed anew."""
        return max(PAUSE - self._new, 1)

    def pause(self) -> None:
        """Let no step be due until 64 more losses are learnt."""
        self.limit = math.inf
        self._new = 0
        self._count += 1

    def examine(
        self,
        loss: float,
        batch: Batch,
        before: Before | None,
        gradients: Sequence[Tensor] | None = None,
    ) -> dict[str, Any] | None:
        """The fields of the event, None if the loss cannot be run again. No step is due until 64
        more are learnt.

        Args:
            loss: The loss of the batch.
            batch: Its examples.
            before: The step before, if its batch is still at hand.
            gradients: The gradient of the batch, if `.grad` holds it as it is.
        """
        self.pause()
        norms: list[float] = []
        if gradients is not None:
            squared = squared_norms(gradients)[0].cpu().numpy()
            norms = np.bincount(self._objective.layer_of, weights=squared).tolist()
        now = None
        # A loop that fills one buffer again and again has no batch before.
        if before is not None and not _addresses(before.batch) & _addresses(batch):
            now = self._loss(before.batch)
        examples, share = self._heaviest(loss, batch)
        if now is None and not examples and share is None and not norms:
            return None
        then = None if before is None or now is None else before.loss
        return asdict(
            Examined(loss, self._usual, batch_size(batch), examples, share, then, now, norms)
        )

    def _loss(self, batch: Batch) -> float | None:
        """The mean loss at the present parameters; None if it cannot be computed or is
        not finite."""
        objective = self._objective
        try:
            with torch.no_grad(), objective.untouched_randomness(self._seed):
                loss = objective.mean_loss(objective.parameters, batch).item()
        except Exception:  # the user's loss may raise anything on other examples
            return None
        return loss if math.isfinite(loss) else None

    def _heaviest(self, loss: float, batch: Batch) -> tuple[list[int], float | None]:
        """The fewest examples with most of the rise of the loss, at most an eighth of the batch,
        and their share.

        Eighths of the batch are run, and then the single examples of the heaviest ones. Without
        such examples, the share is that of the heaviest eighth; None if parts of the batch cannot
        be run.
        """
        size = batch_size(batch)
        if not (2 <= size <= 256 and loss > self._usual):
            return [], None
        ends = np.linspace(0, size, min(PARTS, size) + 1).round().astype(int).tolist()
        parts = [range(start, stop) for start, stop in pairwise(ends)]
        rises = [rise for part in parts if (rise := self._rise(batch, part)) is not None]
        total = size * (loss - self._usual)
        # 0.2: the parts have the loss of the batch if their rises add up to its rise within this
        # share of it.
        if len(rises) < len(parts) or abs(sum(rises) - total) > 0.2 * total:
            return [], None  # the loss couples the examples, or draws random numbers
        order = np.argsort(rises)[::-1].tolist()
        most_parts = min(PARTS // 2, 32 // max(map(len, parts)))
        places = [place for part in order[:most_parts] for place in parts[part]]
        singles = {place: self._rise(batch, range(place, place + 1)) or 0.0 for place in places}
        heaviest = sorted(singles, key=lambda place: -singles[place])[: max(size // PARTS, 1)]
        shares = np.cumsum([singles[place] for place in heaviest]) / total
        # 0.8: the share of the rise that the named examples have together.
        enough = np.flatnonzero(shares >= 0.8)
        if not len(enough):
            return [], min(rises[order[0]] / total, 1.0)
        needed = int(enough[0]) + 1
        return sorted(heaviest[:needed]), min(float(shares[needed - 1]), 1.0)

    def _rise(self, batch: Batch, part: range) -> float | None:
        """The sum over these examples of their loss above the usual one; None if it
        cannot be run."""
        loss = self._loss(span(batch, part.start, part.stop))
        return None if loss is None else len(part) * (loss - self._usual)


def _addresses(batch: Batch) -> set[int]:
    found: set[int] = set()
    mapped(batch, lambda tensor: found.add(tensor.data_ptr()))
    return found
