"""Cooling by measurement: cut the learning rate when it has reached its plateau, and end at zero."""

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from gradiometer.convergence.plateau.extrapolation import Extrapolation, Look
from gradiometer.convergence.plateau.noise_floor import CUT, FINISH, SHORT_FINISH, forecast, gain_of_averaging
from gradiometer.errors import BadArgument
from gradiometer.measurement.batch import Batch, chunks
from gradiometer.measurement.estimate import Estimate
from gradiometer.measurement.gradient_graph import flat
from gradiometer.measurement.objective import Objective
from gradiometer.problems.examples import Examples
from gradiometer.randomness import untouched_randomness

PROBE = 2048
"""Most training examples on which the points of a run are compared."""

FEWEST = 64

PARTS = 8
"""Number of equal parts that these examples are run in."""


class TrainProbe:
    """A fixed random part of the training set, and the mean loss of the model on it at any flat parameters.

    The loss draws the same random numbers at every point, and training is not touched.
    """

    def __init__(self, objective: Objective, data: Examples, seed: int) -> None:
        if not len(data) >= FEWEST:
            raise BadArgument(f"`cool` needs at least {FEWEST} training examples, got {len(data)}.")
        count = min(PROBE, len(data)) // PARTS * PARTS
        chosen = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))[:count]
        self.objective, self.seed = objective, zlib.crc32(f"{seed}/cooling".encode())
        with untouched_randomness(self.seed, objective.devices):  # a data set may draw, too
            batch = data.batch(chosen)
        self.parts: list[Batch] = chunks(batch, PARTS)

    def loss(self, points: Float[Tensor, "1 params"]) -> Float[Tensor, " 1"]:
        """The mean loss of these examples."""
        leaves = self._leaves(points[0])
        total = torch.zeros((), dtype=torch.float64, device=points.device)
        with torch.no_grad(), self.objective.untouched_randomness(self.seed):
            for part in self.parts:
                total = total + self.objective.mean_loss(leaves, part).double()
        return total[None] / PARTS

    def gradient(self, points: Float[Tensor, "1 params"]) -> Float[Tensor, "1 params"]:
        """Its gradient."""
        return self.gradients(points).mean(dim=0)

    def gradients(self, points: Float[Tensor, "1 params"]) -> Float[Tensor, "parts 1 params"]:
        """The gradient of each part."""
        leaves = self._leaves(points[0])
        each = [flat(self.objective.gradient(part, at=leaves, seed=self.seed)) for part in self.parts]
        return torch.stack(each)[:, None]

    def _leaves(self, point: Float[Tensor, " params"]) -> list[Tensor]:
        parameters = self.objective.parameters
        pieces = point.split([parameter.numel() for parameter in parameters])
        return [piece.view_as(parameter) for piece, parameter in zip(pieces, parameters, strict=True)]


class Cooling:
    """Follows a training step by step and, if it may act, cuts the rate to a tenth at every plateau.

    The test starts again at every change of the rate. At the end the rate goes linearly from its present value to
    zero, and nothing is tested. This takes the last fifth of the steps. It costs half of what the loss would have
    fallen in them, which is about half of what the averaged iterate fell by at the newest look. If a cut gains less
    than that, only the last twentieth is taken. All cuts multiply the schedule's own rate.

    Args:
        objective: The model and its loss.
        data: The training set.
        steps: Steps of the whole training.
        acts: True if it may cut; otherwise it only reports.
        level: Confidence level of its intervals.
        seed: Seed of the probe.
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
        self.newest: dict[str, Any] | None = None
        self.cut: dict[str, Any] | None = None

    def multiplier(self, step: int) -> float:
        """The factor on the schedule's rate at this step."""
        if step < self.finish:
            return self.factor
        return self.factor * (self.steps - step) / (self.steps - self.finish)

    def observe(self, parameters: Sequence[Tensor], learning_rate: float, step: int) -> list[dict[str, Any]]:
        """Take in the parameters after an update. Returns events to record, each with its name under "event".

        Args:
            parameters: Φ after the update.
            learning_rate: η of the update.
            step: Number of updates so far.
        """
        if step > self.finish:
            return []
        events: list[dict[str, Any]] = []
        if self.acts and step == self.finish == self.steps - int(FINISH * self.steps):
            self.finish = self._chosen_finish()
            events.append({"event": "finish", "step": step, "begins": self.finish})
        if learning_rate != self.rate:
            self._changed(learning_rate)
        stopped = bool(self.test.take(flat([parameter.detach() for parameter in parameters])[None]).item())
        look, self.test.look = self.test.look, None
        if look is None:
            return events
        self.newest = {"step": step, **self._described(look, learning_rate)}
        events += [*self._scored(look, step), {"event": "stationarity", "stopped": stopped, **self.newest}]
        if stopped and self.acts:
            self.factor *= CUT
            events.append({"event": "cut", "to": learning_rate * CUT, **self.newest})
        return events

    def _chosen_finish(self) -> int:
        """The step at which the rate starts to go to zero, decided where the longer way would start."""
        kept = self.newest
        short = kept is not None and kept["gain"]["value"] < kept["fell"] / 2
        return self.steps - int((SHORT_FINISH if short else FINISH) * self.steps)

    def _changed(self, learning_rate: float) -> None:
        """The rate has changed: restart the test. A cut by half or more, by anyone, waits to be scored."""
        kept, self.newest, self.cut = self.newest, None, None
        if kept is not None and learning_rate <= kept["learning_rate"] / 2:
            gain, fell = Estimate(**kept["gain"]), max(kept["fell"], 0.0)
            predicted = forecast(gain, fell, kept["learning_rate"], learning_rate)
            before = self.test.newest.mean().item()
            self.cut = {**kept, "before": before, "to": learning_rate, "predicted": predicted.to_dict()}
        self.test, self.rate = Extrapolation(self.probe), learning_rate

    def _described(self, look: Look, learning_rate: float) -> dict[str, Any]:
        """A look as numbers, with the forecast for a cut to a tenth."""
        gain = gain_of_averaging(look.iterates[0].cpu().numpy(), look.averaged.item(), self.level)
        fell = look.fell.item()
        return {
            "learning_rate": learning_rate,
            "steps": look.step,
            "left": look.left.item(),
            "fell": fell,
            "gain": gain.to_dict(),
            "predicted": forecast(gain, max(fell, 0.0), learning_rate, CUT * learning_rate).to_dict(),
        }

    def _scored(self, look: Look, step: int) -> list[dict[str, Any]]:
        """The gain of a cut, once half as many steps have passed as its forecast looked back on."""
        if self.cut is None or look.step < self.cut["steps"] // 2:
            return []
        cut, self.cut = self.cut, None
        predicted, seen = Estimate(**cut["predicted"]), cut["before"] - look.iterates.mean().item()
        kept = {
            "step": step,
            "cut_at": cut["step"],
            "to": cut["to"],
            "seen": seen,
            "fell": cut["fell"],
            "predicted": cut["predicted"],
        }
        return [{"event": "cut scored", "within": predicted.low <= seen <= predicted.high, **kept}]

    def tensors(self) -> dict[str, Tensor]:
        """The tensors of its state, for a checkpoint."""
        return self.test.tensors()

    def values(self) -> dict[str, Any]:
        """The rest of its state, as values for JSON."""
        kept = {"newest": self.newest, "cut": self.cut}
        return {"factor": self.factor, "finish": self.finish, "rate": self.rate, "test": self.test.values(), **kept}

    def restore(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        """Restore its state."""
        self.factor, self.finish, self.rate = values["factor"], values["finish"], values["rate"]
        self.newest, self.cut = values["newest"], values["cut"]
        self.test = Extrapolation(self.probe)
        self.test.restore(dict(tensors), values["test"])
