"""Forks of a watched loop, kept in its run."""

import inspect
import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Float
from torch.nn.modules.dropout import _DropoutNd
from torch.optim.lr_scheduler import ReduceLROnPlateau

from gradiometer.arguments import check_whole
from gradiometer.errors import BadArgument, Unsupported
from gradiometer.integrations.watch.observers.losses import no_loss
from gradiometer.integrations.watch.observers.triage.exact import planned_steps, schedulers_of
from gradiometer.integrations.watch.requests.request import Request
from gradiometer.loop import Alternative, Fork, Loop, fork
from gradiometer.loop.branches import TAILS
from gradiometer.loop.data import Data, data_of
from gradiometer.loop.followers import NOTE, is_followed
from gradiometer.loop.incident_cause import cause_of, rise_of_rate
from gradiometer.loop.marks import relative
from gradiometer.loop.recorded.incidents import BEFORE, LEAD, IncidentCause, incident_at
from gradiometer.loop.recorded.record import Plan
from gradiometer.loop.replay import (
    WAY_OUT,
    KeptUpdates,
    all_tensors,
    check_replay,
    made_again,
    trained_by,
)
from gradiometer.measurement.estimate import significant
from gradiometer.measurement.optimizer.hyperparameters import SAME
from gradiometer.measurement.optimizer.steps import as_one
from gradiometer.run.reader import Run
from gradiometer.verdict.triage.faults import clipped_shares
from gradiometer.verdict.triage.signs import Signs

# Largest relative difference of a recorded norm that counts as rounding: norms are recorded in six
# digits, and 1 % of clipping changes an effect by less than its interval.
RECORDED = 0.01

# The name under which the time of a fork is charged.
ON_REQUEST = "forks on request"

# Arguments of `Loop`; the others are those of `fork`.
OF_LOOP = frozenset(inspect.signature(Loop).parameters)


class LoopForks:
    """Forks of a watched loop: from its present state, or from one that is kept.

    Args:
        request: The model, its run, what is kept of its updates, and the account of the time.
    """

    def __init__(self, request: Request) -> None:
        self._request = request
        self._subject = request.subject
        self.kept_updates = request.kept_updates
        self.newest_updates = request.newest_updates

    @property
    def data(self) -> Any:
        """The loader of the training data; None if it is not known."""
        return self._request.data

    @property
    def steps(self) -> int:
        """Number of steps so far."""
        return self._request.steps

    def incident(self, batches: Any, **settings: Any) -> IncidentCause | None:
        """Why the loss went wrong: see `Watch.incident`."""
        with self._request.looking(forks="incidents on request") as run:
            if run is None:
                return None
            return self.explain_incident(run, batches, **settings)

    def explain_incident(self, run: Run, batches: Any, **settings: Any) -> IncidentCause:
        """The cause of the worst incident that is kept, which becomes a finding of the run."""
        self.newest_updates.finish()
        held = self.newest_updates.incident
        if held is None:
            way = "" if self.kept_updates.states else " Give `watch` states, such as checkpoints=1."
            raise BadArgument(f"No incident is kept: {self.newest_updates.why_none}.{way}")
        incident = incident_at(run, held.peak)
        if incident is None:
            raise BadArgument(
                f"No incident is kept: the loss of step {held.peak:,}, the highest above its "
                "level, is within what its noise reaches."
            )
        if incident.first < held.state.step:
            # it began before the updates that are kept
            incident = replace(incident, first=held.state.step)
        loop, _ = self.own_loop(run, batches, None, **{**settings, "scheduler": None})
        whole = held.whole_updates(incident.first, loop.accumulation)
        if incident.first not in whole:
            raise Unsupported(
                f"The update of step {incident.first:,} cannot be made again: it is not kept, or "
                f"it took another number of batches than {loop.accumulation}."
            )
        loop = held.brought_to(max(incident.first - LEAD, whole.start), loop, whole.stop)
        rates = Signs.of(run).rates[max(incident.first - BEFORE, 0) : incident.first + 1]
        found = cause_of(loop, incident, rise_of_rate(rates))
        self._request.keep(run, found)
        return found

    def go_back(self, step: int) -> int:
        """Put the training back to the newest state from a step or before: see `Watch.go_back`."""
        if self._subject.source.is_joint:
            raise Unsupported(
                "`go_back` needs a training in one process: load a checkpoint of your own in all "
                "of them."
            )
        held = self.newest_updates.incident
        own = None if held is None else held.own or held.state
        states = [*self.kept_updates.stretches, *([own] if own is not None else [])]
        reached = [one for one in states if one.step <= step]
        if reached:
            kept = max(reached, key=lambda one: one.step)
        else:
            kept = self.kept_updates.before(step)
        kept.put_into(
            self._subject.objective.model, as_one(self._subject.optimizers), self._subject.scaler
        )
        self.newest_updates.went_back()
        self.kept_updates.went_back()
        return kept.step

    def fork(
        self,
        *,
        batches: Any,
        alternatives: Sequence[Alternative | str] | Alternative | str,
        at: int | None = None,
        from_first_weights: bool = False,
        charged_to: str = ON_REQUEST,
        **settings: Any,
    ) -> Fork | None:
        """Fork the loop: see `Watch.fork`. None on processes other than rank 0, and if the losses of
        the training are not those of its updates made again.

        Args:
            batches: The training data.
            alternatives: What is compared with going on as it is.
            at: An earlier step, to fork from a state that is kept.
            from_first_weights: True to begin at the parameters of the first step.
            charged_to: The name that the time is charged to.
            settings: Arguments of `Loop` and of `fork`.
        """
        with self._request.looking(forks=charged_to) as run:
            if run is None or not self._subject.source.is_first:
                return None
            of_loop = {name: settings.pop(name) for name in OF_LOOP if name in settings}
            loop, kept = self.own_loop(run, batches, at, **of_loop)
            if from_first_weights and kept is not None:
                if not _gave_these_losses(loop, kept, Signs.of(run).losses):
                    return None
                start = zip(
                    self._subject.objective.names, self._request.at_start or (), strict=True
                )
                kept = kept.before_all(dict(start))
            if at is not None and kept is not None:
                loop = kept.brought_back(loop)
            # it takes longer than a short trial may
            if charged_to == ON_REQUEST:
                state = all_tensors(loop.model, loop.optimizer).values()
                if is_followed(self._subject.objective.model, state):
                    loop.warnings = (*loop.warnings, NOTE)
                settings.setdefault("begin", partial(self._say_cost, loop))
            return fork(loop, alternatives, **{"out": run.path, **settings})

    def _say_cost(self, loop: Loop, plan: Plan) -> None:
        """Say what the branches will cost, before the first of them begins."""
        begun = self._request.steps
        examples = plan.budget or len(plan.branches) * plan.horizon
        updates = max(math.ceil(examples / loop.size), 1)
        seconds = updates * self._subject.budget.training / max(begun, 1)
        up_to = "up to " if plan.rungs else ""
        self._request.say(
            f"training {len(plan.branches)} branches from step {plan.step:,} "
            f"({'; '.join(plan.names)}; {TAILS[plan.tail]}): {up_to}{updates:,} updates, {updates / max(begun, 1):.2g} "
            f"times those of the training so far ({up_to}{seconds:.2g} s)"
        )

    def updates_in_all(self, batches: Any) -> int | None:
        """The number of updates of the whole training: as it was announced, or as its scheduler
        plans it."""
        if self._subject.budget.planned is not None:
            return self._subject.budget.planned
        schedulers, each = schedulers_of(
            self._subject.optimizers, self._request.steps, self.kept_updates.schedulers
        )
        planned = planned_steps(schedulers)
        if planned is None or each == "update":
            return planned
        # a loader of a stream has a `__len__` that fails
        with suppress(Exception):
            return planned * len(batches) // self._subject.source.backwards
        return None

    def own_loop(
        self, run: Run, batches: Any, at: int | None, **settings: Any
    ) -> tuple[Loop, KeptUpdates | None]:
        """The loop as one that can be copied, whose updates were compared, and the kept updates
        from this step, or the newest."""
        if self._subject.batches.axis:
            raise Unsupported(
                "`batch_axis` is not 0, and a fork cuts batches along their first axis."
            )
        own = settings.get("loss") is None and settings.get("step") is None
        known: dict[str, Any] = {
            "index": self._request.steps,
            "groups": self._subject.batches.groups,
        }
        is_seen = own and self._subject.objective.loss is no_loss
        if is_seen:
            known["loss"] = self._request.loss_seen()
        elif own:
            # decorators of the user's own stay on it
            known["loss"] = vars(self._subject.objective.loss)["__wrapped__"]
        if settings.get("step") is None:
            known |= {
                "accumulation": self._subject.source.backwards,
                "scaler": self._subject.scaler,
            }
        planned = self.updates_in_all(batches)
        if planned is not None and planned > self._request.steps:
            known["left"] = f"{planned - self._request.steps} updates"
        known |= settings
        if at is not None:
            check_whole("at", at, 0)
        kept = self.kept_updates.newest if at is None else self.kept_updates.before(at)
        signs = Signs.of(run)  # which reads the run
        notes = self._schedule(known, batches, signs.rates)
        loop = Loop(
            self._subject.objective.model, self._subject.optimizers, batches=batches, **known
        )
        loop.warnings = (*notes, *self._replay(loop, kept, signs))
        if is_seen:
            from gradiometer.integrations.watch.seen_loss.proof import (  # noqa: PLC0415
                COMPARED,
                other_losses,
            )

            newest = signs.losses[-COMPARED:]
            loop.warnings = (*loop.warnings, *other_losses(loop, newest))
        loop.high_until = signs.high_until
        return loop, kept

    def _schedule(
        self, known: dict[str, Any], batches: Any, rates: Float[np.ndarray, " steps"]
    ) -> tuple[str, ...]:
        """Add the schedulers of the loop to the arguments of `Loop`, unless one is given. Returns
        what a reader of the fork should know of rates that no scheduler explains."""
        if "scheduler" in known:
            return ()
        found, each = schedulers_of(
            self._subject.optimizers, self._request.steps, self.kept_updates.schedulers
        )
        why = _why_not(found, each, data_of(batches, known.get("batch_size")))
        if found and not why:
            known |= {"scheduler": found, "scheduler_each": each}
            return ()
        newest = rates[-32:]  # do they show that the loop sets them itself?
        moved = int((np.abs(np.diff(newest)) > SAME * np.abs(newest[1:])).sum())
        if not (found or moved):
            return ()
        why = why or f"it changed at {moved} of the last {len(newest):,} updates, by your own code"
        return (
            f"The branches keep the rate that your loop has now, since {why}: if it will change, "
            "give scheduler=, a function of the number of an update that returns its rate.",
        )

    def _replay(self, loop: Loop, kept: KeptUpdates | None, signs: Signs) -> tuple[str, ...]:
        """Compare updates of the loop with those of a copy. Returns what a reader of the fork
        should know."""
        why = ""
        if kept is None:
            why = self.kept_updates.why_none
        elif not kept.is_finite:
            why = "the newest ones are not finite"
        elif kept.trained != trained_by(loop.model):
            why = "the newest ones trained other parameters"
        if kept is None or why:
            notes: tuple[str, ...] = (
                f"No update of your loop was compared with that of a copy, since {why}.",
            )
        else:
            try:
                notes = check_replay(loop, kept)
            except Unsupported:
                # each process draws its own Dropout, and only that of rank 0 is known
                modules = self._subject.objective.model.modules()
                has_dropout = any(isinstance(one, _DropoutNd) and one.p > 0 for one in modules)
                if not self._subject.source.is_joint or not has_dropout:
                    raise
                notes = (
                    "No update of your loop was compared with that of a copy, since each process "
                    "draws its own Dropout.",
                )
        # what was recorded is the gradient of the first of two backwards
        if loop.loss is None or loop.ascent is not None:
            return notes
        return (*notes, *_compare_clipping(loop, signs))


def _gave_these_losses(loop: Loop, kept: KeptUpdates, losses: Float[np.ndarray, " steps"]) -> bool:
    """True if the losses that the loop gave to `w.step` are those of its updates made again, so
    that its record can be compared with a branch."""
    return all(
        relative(one.loss, losses[one.kept.step]) < RECORDED for one in made_again(loop, kept)
    )


def _why_not(schedulers: Sequence[Any], each: str, data: Data) -> str:
    """Why branches cannot follow these schedulers, as a part of a sentence; empty if they can."""
    for scheduler in schedulers:
        kind = type(scheduler).__name__
        groups = scheduler.optimizer.param_groups
        planned = getattr(scheduler, "_last_lr", [group["lr"] for group in groups])
        if isinstance(scheduler, ReduceLROnPlateau):
            return f"{kind} needs a metric at every step"
        if any(
            abs(float(group["lr"]) - float(rate)) > SAME * abs(float(rate))
            for group, rate in zip(groups, planned, strict=True)
        ):
            return f"it is not that of its {kind}"
        if each == "epoch" and data.epoch is None:
            return f"{kind} goes on once an epoch, and the size of an epoch is not known"
    return ""


def _compare_clipping(loop: Loop, signs: Signs) -> tuple[str, ...]:
    """Compare what was recorded of gradients before and after clipping, at looks along the whole
    run, with the loop.

    The largest gradients of a run are seldom among the few updates that are made again.

    Returns:
        A sentence if the loop clips to a norm that only the record shows; the loop then clips, too.

    Raises:
        Unsupported: Between the backward and the update something else happened to the gradient.
    """
    shares = clipped_shares(signs)
    if loop.clip_value is not None or not len(shares) or len(shares) < len(signs.looks):
        return ()
    before = np.sqrt((signs.tensors["gradient"] ** 2).sum(axis=1)) / signs.single.get(
        "scale", np.ones(len(shares))
    )
    norm = loop.clip
    if norm is None and (shares < 1 - RECORDED).any():
        norm = float(f"{np.median((shares * before)[shares < 1 - RECORDED]):.3g}")
    expected = np.ones(len(shares)) if norm is None else np.minimum(norm / before, 1)
    differs = np.abs(shares - expected) > RECORDED * expected
    if differs.any():
        look = int(differs.argmax())
        raise Unsupported(
            f"`loss` does not make the updates of your loop: at step {int(signs.looks[look]):,} "
            f"the gradient was {significant(float(shares[look]))} times as long at the update as "
            f"after the backward, which clipping to one norm does not explain; {WAY_OUT}."
        )
    if norm == loop.clip:
        return ()
    loop.clip = norm
    seen = f"at {int((shares < 1 - RECORDED).sum())} of {len(shares)} recorded steps"
    return (f"Your loop clipped the gradient to norm {norm:g} {seen}, and so do the branches.",)
