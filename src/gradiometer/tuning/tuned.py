"""`Tuned`: the optimizer and the rate that a tuning chose, why, what it cost, and how to go on."""

import copy
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tomli_w
import torch
from jaxtyping import Float
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from gradiometer.convergence.schedules import Constant, Schedule
from gradiometer.convergence.schedules.shapes import trapezoid
from gradiometer.errors import BadArgument
from gradiometer.estimation.batch_table import StepTimes
from gradiometer.loop.branch import BranchResult
from gradiometer.loop.readout import Readout
from gradiometer.measurement.estimate import Estimate, significant
from gradiometer.measurement.uncertainty.skewed import skewed_mean
from gradiometer.storage.journal import plain
from gradiometer.tuning.lane import HELD_OUT_READOUT, LIMIT, READOUT, Lane, LoopLane
from gradiometer.tuning.optimizers import Made
from gradiometer.tuning.start import Aim, times_to_dict

# The losses that lanes are compared by, as text.
WORDS = {READOUT: "training loss", HELD_OUT_READOUT: "held-out loss"}


@dataclass(frozen=True, eq=False)
class Tried:
    """Where a lane was after one rung of the race.

    Args:
        lane: The lane.
        updates: Its updates so far.
        result: Its loss at the mean of its last parameters.
        by: The loss that lanes are compared by: "train_loss" or "test_loss".
    """

    lane: Lane
    updates: int
    result: BranchResult
    by: str = READOUT

    @property
    def readout(self) -> Readout:
        """The loss at the mean of its last parameters; inf if it diverged."""
        return Readout(math.inf) if self.result.diverged else self.result.readouts[self.by]

    @property
    def loss(self) -> float:
        """The mean loss."""
        return self.readout.mean

    @property
    def losses(self) -> Float[np.ndarray, " examples"] | None:
        """The loss of every example; None if that is not known, or if it diverged."""
        values = self.readout.values
        return None if values is None or len(values) < 2 else values.astype(float)

    @property
    def is_stuck(self) -> bool:
        """True if the lane diverged, or if all that it may still gain is less than the standard
        error of its loss."""
        if not math.isfinite(self.loss):
            return True
        if self.losses is None or LIMIT not in self.result.readouts:
            return False
        error = float(np.std(self.losses, ddof=1)) / math.sqrt(len(self.losses))
        return self.result.readouts[LIMIT].mean < error

    def behind(self, best: "Tried") -> Estimate | None:
        """How much higher the loss is than that of the best lane, on the same examples; None if
        that is not known."""
        if self.losses is None or best.losses is None:
            return None
        return skewed_mean(self.losses - best.losses)

    @property
    def end(self) -> str:
        """Its loss as text, and why it is behind."""
        if not math.isfinite(self.loss):
            return "diverged"
        return significant(self.loss) + (" (its gradient has vanished)" if self.is_stuck else "")

    @property
    def sentence(self) -> str:
        """Its end in a sentence, for progress."""
        kind = f"{WORDS[self.by]} " if math.isfinite(self.loss) else ""
        return (
            f"{self.lane.made.words} at rate {significant(self.lane.rate)}: {kind}{self.end} after "
            f"{self.updates:,} of {self.lane.steps:,} updates"
        )

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON types."""
        return {
            "optimizer": self.lane.made.words,
            "learning_rate": self.lane.rate,
            "batch_size": self.lane.size,
            "updates": self.updates,
            "loss": plain(self.loss),
        }


@dataclass(frozen=True, eq=False)
class Tuned:
    """What a tuning chose. Continue from the winner with `go_on`, or train from the start with
    `optimizer`, `scheduler`.

    Schedule-free SGD keeps its rate: call `optimizer.eval()` before the model is evaluated or
    saved.

    Args:
        lane: The winner.
        rungs: The lanes of each rung of the race, the best first.
        cost: What the tuning cost besides the training, in units of the training: all gradients,
            and forward passes at a third of one.
        budget: What it was allowed to cost.
        aim: The loss that lanes were compared by: "loss" (or None), "test" or "time".
        times: The measured times of a step by batch size, if the aim was time.
        has_length: False if no length was given. The training can then be stopped at any step.
        first_loss: The loss before the first update.
    """

    lane: Lane
    rungs: tuple[tuple[Tried, ...], ...]
    cost: float
    budget: float
    aim: Aim | None = None
    times: StepTimes | None = None
    has_length: bool = True
    first_loss: float = math.nan

    @property
    def learning_rate(self) -> float:
        """The rate of the first half of training."""
        return self.lane.rate

    @property
    def steps(self) -> int:
        """Updates of the training."""
        return self.lane.steps

    @property
    def batch_size(self) -> int:
        """Examples of an update."""
        return self.lane.size

    @property
    def made(self) -> Made:
        """The optimizer."""
        return self.lane.made

    @property
    def done(self) -> int:
        """Updates of the training that the winner has made in the race."""
        return self.lane.stops[-1]

    def go_on(self, model: nn.Module) -> tuple[torch.optim.Optimizer, LRScheduler]:
        """Put the winner's parameters into a model, with its optimizer and the scheduler of the
        rest of the training.

        `steps − done` updates are left.

        Args:
            model: The model that was tuned.

        Raises:
            BadArgument: The winner is a run on disk, which `gradiometer resume` continues.
        """
        if not isinstance(self.lane, LoopLane):
            raise BadArgument(
                "`go_on` is for a loop of your own: the winner is a run, continue it with `resume`."
            )
        if self.lane.loop.index < self.done:  # the tuning was stopped and continued
            self.lane.advance()
        model.load_state_dict(self.lane.loop.model.state_dict())
        optimizer = self.optimizer(model.parameters())
        optimizer.load_state_dict(copy.deepcopy(self.lane.loop.optimizer.state_dict()))
        scheduler = self.schedule.scheduler(optimizer)
        # The race ends within the first half, so the rate is still that of the first step.
        scheduler.last_epoch = self.done
        return optimizer, scheduler

    def optimizer(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """A new optimizer at the chosen rate, which clips the gradients before each step."""
        return self.made(parameters, self.learning_rate)

    def scheduler(self, optimizer: torch.optim.Optimizer) -> LRScheduler:
        """The rate falls to zero in the second half, or is kept under schedule-free SGD: call
        `step` in each step."""
        return self.schedule.scheduler(optimizer)

    @property
    def schedule(self) -> Schedule:
        """The learning rate at every step."""
        if self.made.is_schedule_free:
            return Constant(self.learning_rate)
        return trapezoid(self.learning_rate, self.steps)

    @property
    def tried(self) -> tuple[Mapping[str, Any], ...]:
        """For every rung, the best lane first: optimizer, rate, batch size, updates, and loss."""
        return tuple(one.to_dict() for rung in self.rungs for one in rung)

    @property
    def line(self) -> str:
        """The optimizer, the schedule and the clipping as lines of Python to paste."""
        lines = [self.made.line(self.learning_rate)]
        if not self.made.is_schedule_free:
            factor = f"max(0.0, min(1.0, ({self.steps} - step) / {self.steps - self.steps // 2}))"
            lines.append(
                f"scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: {factor})"
            )
        if self.made.clip is not None:
            lines.append("# In every update, after backward:")
            lines.append(
                f"torch.nn.utils.clip_grad_norm_(model.parameters(), {self.made.clip:.3g})"
            )
        return "\n".join(lines)

    @property
    def settings(self) -> dict[str, Any]:
        """The names and values of `gradiometer.run.Configuration` that the tuning decides."""
        optimizer = {} if self.made.name == "own" else {"optimizer": self.made.name}
        return {
            "learning_rate": self.learning_rate,
            "schedule": "constant" if self.made.is_schedule_free else "trapezoid",
            **({"steps": self.steps} if self.has_length else {}),
            "batch_size": self.batch_size,
            **optimizer,
            **self.made.settings,
            **({} if self.made.clip is None else {"clip": self.made.clip}),
        }

    def to_toml(self, **others: Any) -> str:
        """The settings as a TOML file for `gradiometer train --config`.

        Args:
            others: Further settings, such as problem="digits".
        """
        return tomli_w.dumps({**others, **self.settings})

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON types."""
        return {
            **self.settings,
            "done": self.done,
            "cost": self.cost,
            "budget": self.budget,
            "aim": self.aim,
            "step_times": None if self.times is None else times_to_dict(self.times),
            "tried": [dict(one) for one in self.tried],
            "sentences": list(self.sentences),
            "line": self.line,
        }

    @property
    def sentences(self) -> tuple[str, ...]:
        """What was chosen, what was tried, what cannot be told, and what it cost."""
        rate = significant(self.learning_rate)
        way = (
            f" for the first {self.steps // 2:,} of {self.steps:,} updates, and from there "
            "linearly to zero"
        )
        if self.made.is_schedule_free:
            way = f", kept over {self.steps:,} updates"
        found = [f"{self.made.words} at learning rate {rate}{way}."]
        if not self.has_length:
            found = [
                f"Learning rate {rate}, kept: no length was given, so the training can be stopped "
                "at any step."
            ]
            found.append(f"The rate was chosen for about {self.steps:,} updates.")
        if self.made.clip is not None:
            found.append(f"Gradients are clipped to the norm {significant(self.made.clip)}.")
        if self.times is not None:
            (first, *_), relative = self.times.seconds, self.times.relative
            others = ", ".join(
                f"batch {size:,} {time}" for size, time in relative.items() if size != first
            )
            found.append(
                f"A step at batch {first:,} takes {self.times.seconds[first]}; in units of that: "
                f"{others}."
            )
        found += [self._rung(rung) for rung in self.rungs]
        best = self.rungs[-1][0]
        if best.by == HELD_OUT_READOUT and best.losses is not None:
            found.append(
                f"On {len(best.losses):,} held-out examples, which it was chosen by, the best lane "
                f"is at {skewed_mean(best.losses)}."
            )
        found += self._doubts()
        found.append(
            f"Tuning cost {self.cost:.2f} trainings of this length besides the training itself."
        )
        return tuple(found)

    def _words(self, one: Tried) -> str:
        """A lane as it differs from others."""
        words = [significant(one.lane.rate)]
        if len({tried.lane.size for rung in self.rungs for tried in rung}) > 1:
            words.insert(0, f"batch {one.lane.size:,} at")
        if len({tried.lane.made.words for rung in self.rungs for tried in rung}) > 1:
            words.insert(0, f"{one.lane.made.words} at")
        return " ".join(words)

    def _rung(self, rung: Sequence[Tried]) -> str:
        losses = [one.end for one in rung]
        if math.isfinite(rung[0].loss):
            losses[0] = f"has a {WORDS[rung[0].by]} of {losses[0]}"
        ends = [f"{self._words(one)} {loss}" for one, loss in zip(rung, losses, strict=True)]
        return f"After {max(one.updates for one in rung):,} updates: {', '.join(ends)}."

    def _doubts(self) -> list[str]:
        """What the race cannot tell."""
        best, *others = self.rungs[-1]
        gaps = [one.behind(best) for one in others if math.isfinite(one.loss)]
        equal = [gap is not None and gap.low <= 0 for gap in gaps]
        found = []
        wide = self.rungs[min(1, len(self.rungs) - 1)]
        wide_gaps = [one.behind(wide[0]) for one in wide[1:]]
        if not math.isfinite(best.loss):
            found.append("All rates diverged: look at the loss and at the examples.")
        elif all(gap is not None and gap.low <= 0 for gap in wide_gaps):
            rates = sorted(one.lane.rate for one in wide)
            found.append(
                f"All rates from {significant(rates[0])} to {significant(rates[-1])} ended at the "
                "same loss, within the noise of the examples."
            )
            if not best.loss < self.first_loss / 2:
                found.append(
                    "If that is the loss of the best constant, nothing else has been learnt: "
                    "standardise the inputs, so that each has mean 0 and size 1, or train longer."
                )
        elif equal and all(equal):
            found.append("The last lanes cannot be told apart by these examples: either would do.")
        return found
