"""Cooling by measurement: the rate is cut when it has stopped paying, and goes to zero at the end of the budget."""

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from gradiometer.convergence.level import CUT, forecast, gain_of_averaging
from gradiometer.convergence.stationarity_extrapolation import Extrapolation, Look
from gradiometer.measurement.batch import Batch, batch_size, chunks
from gradiometer.measurement.gradient_graph import flat
from gradiometer.measurement.objective import Objective
from gradiometer.measurement.reading import Estimate
from gradiometer.measurement.untouched import untouched_randomness
from gradiometer.problems.examples import Examples

FINISH = 0.2
"""Share of the steps, the last, in which the rate goes linearly to zero."""

PROBE = 2048
"""Training examples, at most, on which the points of a run are compared."""

AT_ONCE = 1024
"""Most of them in one forward."""


class TrainProbe:
    """A fixed random part of the training set, and the mean loss of the model on it at any flat parameters.

    Whatever the loss draws is drawn alike at every point, and nothing of training is touched.
    """

    def __init__(self, objective: Objective, data: Examples, seed: int) -> None:
        chosen = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))[:PROBE]
        self.objective, self.seed = objective, zlib.crc32(f"{seed}/cooling".encode())
        with untouched_randomness(self.seed, objective.devices):  # a data set may draw, too
            batch = data.batch(chosen)
        self.parts: list[Batch] = chunks(batch, -(-len(chosen) // AT_ONCE))
        self.weights = [batch_size(part) / len(chosen) for part in self.parts]

    def loss(self, points: Float[Tensor, "1 params"]) -> Float[Tensor, " 1"]:
        """Mean loss of the part."""
        leaves = self._leaves(points[0])
        total = torch.zeros((), dtype=torch.float64, device=points.device)
        with torch.no_grad(), self.objective.undisturbed(self.seed):
            for weight, part in zip(self.weights, self.parts, strict=True):
                total = total + weight * self.objective.mean_loss(leaves, part).double()
        return total[None]

    def gradient(self, points: Float[Tensor, "1 params"]) -> Float[Tensor, "1 params"]:
        """Its gradient."""
        total = torch.zeros_like(points)
        leaves = self._leaves(points[0])
        for weight, part in zip(self.weights, self.parts, strict=True):
            total[0].add_(flat(self.objective.gradient(part, at=leaves, seed=self.seed)), alpha=weight)
        return total

    def _leaves(self, point: Float[Tensor, " params"]) -> list[Tensor]:
        parameters = self.objective.parameters
        pieces = point.split([parameter.numel() for parameter in parameters])
        return [piece.view_as(parameter) for piece, parameter in zip(pieces, parameters, strict=True)]


class Cooling:
    """Watches a training step by step; where it may act, cuts the rate to a tenth whenever it has stopped paying.

    The clock of the test starts anew at every change of the rate. In the last fifth of the steps nothing is watched:
    the rate goes linearly to zero from wherever it stands. Everything is in proportion to the schedule's own rate.

    Args:
        objective: The model and its loss.
        data: The training set.
        steps: Of the whole training.
        acts: Whether it may cut; otherwise it only tells.
        level: Of its intervals.
        seed: Of the probe.
    """

    def __init__(
        self,
        objective: Objective,
        data: Examples,
        steps: int,
        *,
        acts: bool,
        level: float = 0.9,
        seed: int = 0,
    ) -> None:
        self.probe = TrainProbe(objective, data, seed)
        self.steps, self.acts, self.level = steps, acts, level
        self.finish = steps - int(FINISH * steps) if acts else steps
        self.test = Extrapolation(self.probe)
        self.factor = 1.0
        self.rate: float | None = None
        self.cut: dict[str, Any] | None = None

    def multiplier(self, step: int) -> float:
        """What the schedule's rate is multiplied by at this step."""
        if step < self.finish:
            return self.factor
        return self.factor * (self.steps - step) / (self.steps - self.finish)

    def observe(self, parameters: Sequence[Tensor], learning_rate: float, step: int) -> list[dict[str, Any]]:
        """Take in where an update at this rate has led; events to record, each with its name under "event".

        Args:
            parameters: Φ after the update.
            learning_rate: η of the update.
            step: Updates made.
        """
        if step > self.finish:
            return []
        if learning_rate != self.rate:
            self.test, self.rate = Extrapolation(self.probe), learning_rate
        stopped = bool(self.test.take(flat([parameter.detach() for parameter in parameters])[None]).item())
        look, self.test.look = self.test.look, None
        if look is None:
            return []
        events = self._scored(look)
        gain = gain_of_averaging(look.iterates[0].cpu().numpy(), look.averaged.item(), self.level)
        told = self._told(look, gain, learning_rate)
        events.append({"event": "stationarity", "stopped": stopped, **told})
        if stopped and self.acts:
            self.factor *= CUT
            self.cut = {"step": step, "before": look.iterates.mean().item(), "window": look.step // 2, **told}
            events.append({"event": "cut", "to": learning_rate * CUT, **told})
        return events

    def _told(self, look: Look, gain: Estimate, learning_rate: float) -> dict[str, Any]:
        """A look in numbers; the forecast is of a cut to a tenth."""
        left = max(look.left.item(), 0.0)
        return {
            "learning_rate": learning_rate,
            "steps": look.step,
            "left": left,
            "fell": look.fell.item(),
            "gain": gain.to_dict(),
            "predicted": forecast(gain, left, learning_rate, CUT * learning_rate).to_dict(),
        }

    def _scored(self, look: Look) -> list[dict[str, Any]]:
        """Once as many steps have passed since a cut as its forecast looked back on: what it gained."""
        if self.cut is None or look.step < self.cut["window"]:
            return []
        cut, self.cut = self.cut, None
        after = gain_of_averaging(look.iterates[0].cpu().numpy(), 0.0, self.level)
        predicted = Estimate(**cut["predicted"])
        seen = cut["before"] - after.value
        fields = {"cut_at": cut["step"], "seen": seen, "predicted": cut["predicted"]}
        return [{"event": "cut scored", "within": predicted.low <= seen <= predicted.high, **fields}]

    def tensors(self) -> dict[str, Tensor]:
        """The tensors of its state, for a checkpoint."""
        return self.test.tensors()

    def values(self) -> dict[str, Any]:
        """The rest of its state, as JSON has it."""
        return {"factor": self.factor, "rate": self.rate, "cut": self.cut, "test": self.test.values()}

    def restore(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        """Put its state back."""
        self.factor, self.rate, self.cut = values["factor"], values["rate"], values["cut"]
        self.test = Extrapolation(self.probe)
        self.test.restore(dict(tensors), values["test"])
