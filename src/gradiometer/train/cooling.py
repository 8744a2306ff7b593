"""Cooling by measurement: tell if a cut of the rate would gain, and ask for forks that may end the
rate of a run."""

import math
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from gradiometer.convergence.plateau.extrapolation import (
    BLOCKS,
    BLOCKS_PER_OCTAVE,
    PER_BLOCK,
    Extrapolation,
    Look,
)
from gradiometer.convergence.plateau.noise_floor import CUT, FINISH, forecast, gain_of_averaging
from gradiometer.errors import BadArgument
from gradiometer.loop.branch import tail_factor
from gradiometer.loop.changes.alternative import Hold
from gradiometer.loop.loop import TRAIN_EXAMPLES
from gradiometer.measurement.batch import Batch, chunks
from gradiometer.measurement.estimate import LEVEL, Estimate
from gradiometer.measurement.gradient_graph import flat, unflat
from gradiometer.measurement.objective import Objective
from gradiometer.problems.examples import Examples
from gradiometer.randomness import untouched_randomness

# Training examples on which the points of a run are compared, at least; `TRAIN_EXAMPLES` at most.
FEWEST = 64

# Number of equal parts that these examples are run in.
PARTS = 8

# Most examples that are run at once.
AT_ONCE = 256

# The looks of a test begin when its steps are a sixty-fourth of those that it has, but not before
# the sixteenth.
OCTAVES = 6

# Names of the attributes that a checkpoint keeps as values.
NAMES = ("spent", "asked", "begins", "since", "needed", "rate", "newest", "cut")


class TrainProbe:
    """A fixed random part of the training set, and the mean loss of the model on it at any flat
    parameters.

    The loss draws the same random numbers at every point, and training is not touched.
    """

    def __init__(self, objective: Objective, data: Examples, count: int, seed: int) -> None:
        if len(data) < FEWEST:
            raise BadArgument(f"`cool` needs at least {FEWEST} training examples, got {len(data)}.")
        count = min(count, len(data)) // PARTS * PARTS
        chosen = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))[:count]
        self.objective = objective
        self.seed = zlib.crc32(f"{seed}/cooling".encode())
        with untouched_randomness(self.seed, objective.devices):  # a data set may draw, too
            batch = data.batch(chosen)
        self.parts: list[Batch] = chunks(batch, PARTS)
        self.batches = chunks(
            batch, next(few for few in (1, 2, 4, PARTS) if count <= few * AT_ONCE)
        )

    def loss(self, points: Float[Tensor, "1 params"]) -> Float[Tensor, " 1"]:
        """The mean loss of these examples."""
        leaves = unflat(points[0], self.objective.parameters)
        total = torch.zeros((), dtype=torch.float64, device=points.device)
        with torch.no_grad(), self.objective.untouched_randomness(self.seed):
            for part in self.batches:
                total = total + self.objective.mean_loss(leaves, part).double()
        return total[None] / len(self.batches)

    def gradient(self, points: Float[Tensor, "1 params"]) -> Float[Tensor, "1 params"]:
        """Its gradient."""
        return self._gradients(points, self.batches).mean(dim=0)

    def gradients(self, points: Float[Tensor, "1 params"]) -> Float[Tensor, "parts 1 params"]:
        """The gradient of each part."""
        return self._gradients(points, self.parts)

    def _gradients(self, points: Tensor, parts: Sequence[Batch]) -> Tensor:
        leaves = unflat(points[0], self.objective.parameters)
        each = [flat(self.objective.gradient(part, at=leaves, seed=self.seed)) for part in parts]
        return torch.stack(each)[:, None]


def cost_of_looks(examples: int, batch_size: int) -> float:
    """Cost of a test on so many examples, in training steps.

    24 blocks have four losses and a gradient each, nine looks three losses and a gradient in parts.
    A call costs as much as a step of as many examples, but not less than a step; a loss costs a
    third of it.
    """
    blocks = OCTAVES * BLOCKS_PER_OCTAVE
    looks = blocks - BLOCKS + 1
    whole = blocks * (1 + PER_BLOCK / 3) + looks
    each = examples / batch_size
    return whole * max(each, math.ceil(examples / AT_ONCE)) + looks * max(each, PARTS)


def paid_examples(share: float | None, length: tuple[int, int], *, needed: bool) -> int:
    """Examples of a probe whose test costs at most half of what measuring may use: 64 to 2048, or 0
    for no test.

    Args:
        share: Share of the training that measuring may use; None: any.
        length: Steps of the whole training, and examples of a step.
        needed: True if there must be a test.

    Raises:
        BadArgument: There must be one, and the share does not pay for 64 examples.
    """
    if share is None:
        return TRAIN_EXAMPLES
    steps, batch_size = length
    for count in range(TRAIN_EXAMPLES, FEWEST - 1, -FEWEST):
        # half of what measuring may use
        if cost_of_looks(count, batch_size) <= share * steps / 2:
            return count
    if not needed:
        return 0
    enough = math.ceil(200 * cost_of_looks(FEWEST, batch_size) / steps) / 100
    ways = f"set `budget` = {enough:.2f} or more, or `every`" if enough < 1 else "set `every`"
    raise BadArgument(
        f"`cool` = watch does not fit into a `budget` of {share:g} in {steps:,} steps of "
        f"{batch_size:,} examples: {ways}, which measures at any cost, or train for longer."
    )


class Cooling:
    """Follows a training step by step, reports what a cut would gain and, if it may act, asks for
    forks.

    The test of `Extrapolation` starts again at every change of the rate, and only reports. Forks
    decide when the rate starts to go linearly to zero, which it reaches at the end. In one branch
    it does so from here; in the other it stays until the next mark, or to the end after the last
    one.

    - After a tenth of the steps, and where the test proposes a cut, the rate goes to zero only if
      the first branch is shown to end lower. Such a fork is made if the budget pays for it and for
      the forks at the marks. The branches of the early one are as long as a sixth of the run; a
      rate that is far too high shows in them.
    - At two marks near the end, it goes to zero unless the other branch is shown to end lower. It
      does so without a fork if the budget does not pay for it.

    A way to zero that has begun is final. All rates multiply those of the schedule.

    Args:
        objective: The model and its loss.
        data: The training set.
        length: Steps of the whole training, and examples of a step.
        acts: True if it may change the rate; otherwise it only reports.
        share: Share of the training that measuring may use; None: any.
        budget: Most that all forks may cost, in units of the whole training.
        level: Confidence level of its intervals, and of the words "ends lower", one-sided; above
            0.5 if it acts.
        seed: Seed of the probe.
    """

    def __init__(
        self,
        objective: Objective,
        data: Examples,
        length: tuple[int, int],
        *,
        acts: bool,
        share: float | None = None,
        budget: float = 2.0,
        level: float = LEVEL,
        seed: int = 0,
    ) -> None:
        steps = length[0]
        examples = paid_examples(share, length, needed=not acts)
        self.probe = TrainProbe(objective, data, examples, seed) if examples else None
        self.steps = steps
        self.acts = acts
        self.budget = budget
        self.level = level
        # The step of an early fork.
        self.early = max(int(0.1 * steps), 1)
        # Steps at which the rate goes to zero unless a fork shows that keeping it ends lower.
        self.marks: list[int] = []
        if acts:
            self.marks = sorted(
                {math.ceil(share * steps) for share in (1 - FINISH, 0.95)} - {steps}
            )
        # Steps before the test began: the rate has not changed since.
        self.since = 0
        self.test = self._new_test()
        # The number of the next update that is not passed over.
        self.needed = 0
        # Cost of the forks so far, in units of the whole training.
        self.spent = 0.0
        # Step of the latest decision.
        self.asked: int | None = None
        # Step from which the rate goes to zero; the last one if it stays. None: not decided.
        self.begins: int | None = None
        self.rate: float | None = None
        self.newest: dict[str, Any] | None = None
        self.cut: dict[str, Any] | None = None

    def multiplier(self, step: int) -> float:
        """The factor on the schedule's rate at this step."""
        if self.begins is None or step < self.begins or self.begins == self.steps:
            return 1.0
        return tail_factor(
            "linear", step - self.begins, step + 1 - self.begins, self.steps - self.begins
        )

    def asks(self, step: int) -> bool:
        """True if there is something to decide before this step."""
        if not self.acts or self.begins is not None or self.asked == step:
            return False
        proposed = (
            self.newest is not None and self.newest["step"] == step and self.newest["stopped"]
        )
        return step in self.marks or ((proposed or step == self.early) and self.pays(step))

    def pays(self, step: int) -> bool:
        """True if the budget pays for a fork here and at all marks that follow."""
        planned = self._cost(step) + sum(self._cost(mark) for mark in self.marks if mark > step)
        return self.spent + planned <= self.budget * (1 + 1e-9)

    def stop(self, step: int) -> int:
        """The step at which the branches of a fork end."""
        if step == self.early:
            # branches of 0.16 of the steps
            return step + max(int(0.16 * self.steps), 1)
        return self.steps

    def replicates(self, step: int) -> int:
        """Replicates of each branch of a fork."""
        return 3 if step == self.early else 2

    def hold(self, step: int) -> Hold:
        """The branch that a fork at this step compares with going to zero from there."""
        if step == self.early:
            # the branch that keeps the rate does so for 80 % of its length
            return Hold(0.8)
        until = next((mark for mark in self.marks if mark > step), self.steps)
        return Hold((until - step) / (self.steps - step))

    def decide(self, step: int, begins: int | None, *, forked: bool) -> None:
        """Take in a decision: the step from which the rate goes to zero, or None to go on.

        Args:
            step: The present step.
            begins: That step; the number of all steps if the rate stays to the end.
            forked: True if a fork was made for it.
        """
        self.asked = step
        self.begins = begins
        self.spent += self._cost(step) if forked else 0.0

    def _cost(self, step: int) -> float:
        """Cost of a fork at a step, in units of the whole training."""
        return 2 * self.replicates(step) * (self.stop(step) - step) / self.steps

    def passes_over(self, learning_rate: float, step: int) -> bool:
        """True if this update changes nothing, which is then counted: `observe` need
        not be called."""
        if self.begins is None and (learning_rate != self.rate or self.needed <= step):
            return False
        if self.test is not None:
            self.test.skip()
        return True

    def observe(
        self, parameters: Sequence[Tensor], learning_rate: float, step: int
    ) -> list[dict[str, Any]]:
        """Take in the parameters after an update. Returns events to record, each with its name
        under "event".

        Args:
            parameters: Φ after the update.
            learning_rate: η of the update.
            step: Number of updates so far.
        """
        if self.begins is not None:
            return []
        if learning_rate != self.rate:
            self._restart(learning_rate, step)
        if self.test is None:
            return []
        stopped = bool(
            self.test.take(flat([parameter.detach() for parameter in parameters])[None]).item()
        )
        self.needed = self.since + self.test.needed
        look, self.test.look = self.test.look, None
        if look is None:
            return []
        gain = gain_of_averaging(look.iterates[0].cpu().numpy(), look.averaged.item(), self.level)
        fell = look.fell.item()
        predicted = forecast(gain, max(fell, 0.0), learning_rate, CUT * learning_rate)
        self.newest = {
            "step": step,
            "stopped": stopped,
            "learning_rate": learning_rate,
            "steps": look.step,
            "left": look.left.item(),
            "fell": fell,
            "gain": gain.to_dict(),
            "predicted": predicted.to_dict(),
        }
        return [*self._score(look, step), {"event": "stationarity", **self.newest}]

    def _new_test(self) -> Extrapolation | None:
        """A test of the rest of the run."""
        if self.probe is None:
            return None
        return Extrapolation(self.probe, first=max((self.steps - self.since) >> OCTAVES, 16))

    def _restart(self, learning_rate: float, step: int) -> None:
        """The rate has changed: restart the test. A cut by half or more, by anyone, waits to be
        scored."""
        kept = self.newest
        self.newest = None
        self.cut = None
        if (
            kept is not None
            and self.test is not None
            and learning_rate <= kept["learning_rate"] / 2
        ):
            gain, fell = Estimate(**kept["gain"]), max(kept["fell"], 0.0)
            predicted = forecast(gain, fell, kept["learning_rate"], learning_rate)
            before = self.test.newest.mean().item()
            self.cut = {
                **kept,
                "before": before,
                "to": learning_rate,
                "predicted": predicted.to_dict(),
            }
        self.since = step - 1
        self.rate = learning_rate
        self.test = self._new_test()
        self.needed = self.steps + 1

    def _score(self, look: Look, step: int) -> list[dict[str, Any]]:
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
        return self.test.tensors() if self.test is not None else {}

    def values(self) -> dict[str, Any]:
        """The rest of its state, as values for JSON."""
        test = self.test.values() if self.test is not None else None
        return {"test": test, **{name: getattr(self, name) for name in NAMES}}

    def restore(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        """Restore its state."""
        for name in NAMES:
            setattr(self, name, values[name])
        self.test = self._new_test()
        if self.test is not None:
            self.test.restore(dict(tensors), values["test"])
