"""`Tuned`: the rate that a tuning chose, why, what it cost, and how to use it."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import tomli_w
import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from gradiometer.convergence.formulas.number import Amount
from gradiometer.convergence.schedules.named import trapezoid
from gradiometer.convergence.schedules.schedule import Schedule
from gradiometer.convergence.schedules.shapes import Constant
from gradiometer.estimation.step_time import StepTimes
from gradiometer.loop.branches import Fork
from gradiometer.loop.comparison.effects import Effect
from gradiometer.loop.recorded.words import outcome
from gradiometer.measurement.estimate import counted, significant
from gradiometer.measurement.loss import Loss
from gradiometer.train.guard import Guard
from gradiometer.tuning.aim import Aim, times_to_dict
from gradiometer.tuning.choice import LOWER, Choice, rate_of
from gradiometer.tuning.lane import READOUT, Ended, end_loss, late_loss
from gradiometer.tuning.optimizers import Made
from gradiometer.tuning.probe import Bracket

SEVERAL = (
    "Branches of more than two optimizers are short: a race of three chose the best one in 7 of 16 trials. Race two, "
    "or give a larger budget."
)
"""How far a race of more than two optimizers can be trusted: `docs/studies/tuning.md`."""


LONG = 2
"""The rounds before the one that has a longer branch."""


@dataclass(frozen=True, eq=False)
class Tuned:
    """What a tuning chose. Train from the start with `optimizer` and `scheduler`, for `steps` updates.

    Schedule-free SGD keeps its rate: call `optimizer.eval()` before the model is evaluated or saved.

    Args:
        learning_rate: The rate for the first half of training; from there it falls linearly to zero, except under
            schedule-free SGD.
        steps: Updates of the training it was chosen for.
        batch_size: Examples of an update.
        made: The optimizer.
        bracket: The bracket of the probe; None for an optimizer that is not SGD.
        choice: The rounds of branches and what they said.
        anchor: The rate at exponent 0 of the choice.
        forks: The rounds as forks: the baseline of each is its centre, the alternatives are the other rates.
        cost: What the tuning cost, in units of the training: updates, forward passes of the probe, and readouts.
        budget: What it was allowed to cost.
        replicates: Data orders of every rate.
        race: If several optimizers were raced, where each ended at its best rate: after short branches, and the best
            two after longer ones. The chosen one is the first of the last part.
        races: The same as forks, with the best of each part as the baseline.
        aim: What was the same for several batch sizes: "examples" or "time"; None for one batch size.
        times: The measured times of a step by batch size, if the aim was time.
        has_length: False if no length was given. The training can then be stopped at any step.
    """

    learning_rate: float
    steps: int
    batch_size: int
    made: Made
    bracket: Bracket | None
    choice: Choice
    anchor: float
    forks: tuple[Fork, ...]
    cost: float
    budget: Amount
    replicates: int
    race: tuple[tuple[Ended, ...], ...] = ()
    races: tuple[Fork, ...] = ()
    aim: Aim | None = None
    times: StepTimes | None = None
    has_length: bool = True

    def optimizer(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """A new optimizer at the chosen rate."""
        return self.made(parameters, self.learning_rate)

    def scheduler(self, optimizer: torch.optim.Optimizer) -> LRScheduler:
        """The rate falls to zero in the second half, or is kept under schedule-free SGD: call `step` in each step."""
        return self.schedule.scheduler(optimizer)

    def guard(self, model: nn.Module, optimizer: torch.optim.Optimizer, scheduler: LRScheduler, *, loss: Loss) -> Guard:
        """Watches the training at the chosen rate, and goes back at a lower one if it collapses.

        Args:
            model: The model.
            optimizer: Its optimizer.
            scheduler: Its scheduler.
            loss: The loss of the tuning.
        """
        return Guard(model, optimizer, scheduler, loss=loss, steps=self.steps, expected=self.expected)

    @property
    def expected(self) -> float | None:
        """The lowest loss of a branch, from which a guard takes what can be learnt; None if all diverged.

        It is that of mini-batches before their updates, as a guard sees them, or of the readout where that is higher:
        the last mini-batches are few, and may be easy ones. A branch that is longer than the others does not count: it
        may have left a plateau later than a guard waits.
        """
        results = [result for fork in self.forks[:LONG] for result in fork.results]
        losses = [max(late_loss(result), end_loss(result)) for result in results]
        return min((loss for loss in losses if math.isfinite(loss)), default=None)

    @property
    def schedule(self) -> Schedule:
        """The learning rate at every step."""
        if self.made.is_schedule_free:
            return Constant(self.learning_rate)
        return trapezoid(self.learning_rate, self.steps)

    @property
    def tried(self) -> tuple[Mapping[str, Amount], ...]:
        """For every round, by growing rate: the updates of a branch, its rate, and the training loss at its end."""
        return tuple(
            {"updates": one.updates, "learning_rate": rate_of(self.anchor, exponent), "loss": one.losses[exponent]}
            for one in self.choice.rounds
            for exponent in sorted(one.losses)
        )

    def effects(self, level: float = 0.9) -> tuple[Effect, ...]:
        """The rates of the last round against its baseline, with intervals if there are several replicates.

        Args:
            level: Probability that all intervals cover.
        """
        return self.forks[:LONG][-1].effects(READOUT, level=level)

    @property
    def line(self) -> str:
        """The optimizer, the schedule and the clipping as lines of Python to paste."""
        lines = [self.made.line(self.learning_rate)]
        if not self.made.is_schedule_free:
            factor = f"max(0.0, min(1.0, ({self.steps} - step) / {self.steps - self.steps // 2}))"
            lines.append(f"scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: {factor})")
        if self.made.clip is not None:
            lines.append("# In every update, after backward:")
            lines.append(f"torch.nn.utils.clip_grad_norm_(model.parameters(), {self.made.clip:.3g})")
        return "\n".join(lines)

    @property
    def settings(self) -> dict[str, Any]:
        """The names and values of `gradiometer.run.Configuration` that the tuning decides."""
        optimizer = {} if self.made.name == "own" else {"optimizer": self.made.name}
        rate = float(f"{self.learning_rate:.4g}")
        return {
            "learning_rate": rate,
            "schedule": "constant" if self.made.is_schedule_free else "trapezoid",
            **({"steps": self.steps} if self.has_length else {}),
            "batch_size": self.batch_size,
            **optimizer,
            **self.made.settings,
            **({} if self.made.clip is None else {"clip": float(f"{self.made.clip:.4g}")}),
            **({} if self.expected is None else {"guard": float(f"{self.expected:.4g}")}),
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
            "cost": self.cost,
            "budget": self.budget,
            "replicates": self.replicates,
            "held": self.choice.held,
            "bracket": None if self.bracket is None else self.bracket.to_dict(),
            "aim": self.aim,
            "step_times": None if self.times is None else times_to_dict(self.times),
            "race": [[end.to_dict() for end in part] for part in self.race],
            "tried": [dict(one) for one in self.tried],
            "effects": [effect.to_dict() for effect in self.effects()],
            "sentences": list(self.sentences),
            "line": self.line,
        }

    @property
    def sentences(self) -> tuple[str, ...]:
        """What was chosen, why, what it cost, and what more would gain."""
        rate = significant(self.learning_rate)
        way = f" for the first {self.steps // 2:,} of {self.steps:,} updates, and from there linearly to zero"
        if self.made.is_schedule_free:
            way = f", kept over {self.steps:,} updates"
        found = [f"Learning rate {rate}{way}."]
        if not self.has_length:
            found[0] = f"Learning rate {rate}, kept: no length was given, so the training can be stopped at any step."
            found.append(f"The rate was chosen for about {self.steps:,} updates.")
        if self.made.clip is not None:
            found.append(f"Gradients are clipped to the norm {significant(self.made.clip)}.")
        if self.bracket is not None:
            found.append(f"Bracket: {self.bracket}.")
        if self.times is not None:
            found.append(self._timed(self.times))
        found += [self._raced(place) for place in range(len(self.race))]
        if self.race and len({end.lane.made.family for end in self.race[0]}) > 2:
            found.append(SEVERAL)
        found += [self._round(place) for place in range(len(self.choice.rounds))]
        if self.choice.held:
            found.append(
                "The rate was lowered to half of one that diverged or ended much worse: long trainings collapse sooner."
            )
        elif self._is_lower:
            found.append("The best rate among and between these is divided by √2: longer trainings need lower rates.")
        found += self._plateau()
        found.append(f"Tuning cost {self.cost:.2f} trainings of this length; it was allowed {self.budget:g}.")
        found.append(self._more())
        return tuple(found)

    def _timed(self, times: StepTimes) -> str:
        """The measured times of a step."""
        (first, *_), relative = times.seconds, times.relative
        others = [f"batch {size:,} {time}" for size, time in relative.items() if size != first]
        return f"A step at batch {first:,} takes {times.seconds[first]}; in units of that: {', '.join(others)}."

    def _raced(self, place: int) -> str:
        """Where the optimizers ended in one part of the race."""
        part = self.race[place]
        count = max(result.updates for end in part for result in end.results)
        length = f"Optimizers after {counted(count, 'update')}"
        if self.aim is not None:
            length = f"Batch sizes after the same {'time' if self.aim == 'time' else 'number of examples'}"
        ends = []
        for end in part:
            ended = f"ended at {significant(end.loss)}" if math.isfinite(end.loss) else "diverged"
            ends.append(f"{end.lane.words} (rate {significant(end.rate)}) {ended}")
        shown = [f"{effect.alternative} {outcome(effect)}" for effect in self.races[place].effects(READOUT)]
        against = f" Against the first: {'; '.join(shown)}." if self.replicates > 1 else ""
        return f"{length}, by training loss: {', '.join(ends)}.{against}"

    def _round(self, place: int) -> str:
        one = self.choice.rounds[place]
        ends, ended = [], "ended at a training loss of"
        for exponent in sorted(one.losses):
            loss, rate = one.losses[exponent], significant(rate_of(self.anchor, exponent))
            if math.isfinite(loss):
                ends.append(f"{rate} {ended} {significant(loss)}")
                ended = "at"
            else:
                ends.append(f"{rate} diverged")
        return f"Branches of {one.updates:,} updates: {', '.join(ends)}."

    @property
    def _is_lower(self) -> bool:
        """True if the rate is below the best one of the last round, and nothing holds it down further."""
        rounds = self.choice.rounds
        return len(rounds) == LONG and math.isclose(rounds[-1].minimum - self.choice.exponent, LOWER)

    def _plateau(self) -> list[str]:
        """What was chosen on a plateau at the start; nothing if the branches left it."""
        if len(self.choice.rounds) < LONG:
            return []
        last, *longer = self.choice.rounds[LONG - 1 :]
        if last.slow > -math.inf:
            return ["The rate is just above those at which little was learnt: higher ones may collapse later."]
        if not last.on_plateau:
            return []
        found = f"After {counted(last.updates, 'update')} all rates had learnt equally little"
        if not longer:
            return [f"{found}: the rate is close to that of the probe, and no more than a guess."]
        after = f"after {counted(longer[0].updates, 'update')}"
        if longer[0].has_left(last):
            return [f"{found}; this one had learnt more {after}."]
        return [f"{found}, and no more {after}: this rate is half of the lowest one. A longer training may learn more."]

    def _more(self) -> str:
        """What a larger budget would give."""
        if self.race and len(self.choice.rounds) == 1:
            return "The budget paid for short branches only: a larger one also trains longer branches of the best two."
        if self.replicates == 1:
            return (
                f"One data order was tried, so there are no intervals: a budget of {2 * self.budget:.2g} tries two, and"
                " shows which differences between rates are larger than those between orders."
            )
        effects = self.effects()
        shown = [effect for effect in effects if effect.verdict in ("better", "worse")]
        return (
            f"{len(shown)} of {len(effects)} differences to the centre of the last round are shown at 90 %; more "
            "replicates show smaller ones."
        )
