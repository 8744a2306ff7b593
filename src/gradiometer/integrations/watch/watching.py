"""The object that `watch` returns: what is done at every backward, and at every step."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from gradiometer.diagnosis import diagnose
from gradiometer.errors import BadArgument
from gradiometer.gauges import Asked
from gradiometer.integrations.fsdp import is_sharded, refuse_shards_that_cannot_be_heard, reshard
from gradiometer.integrations.trackers import Trackers
from gradiometer.integrations.watch.capture import Catcher, Part, as_written, part_of
from gradiometer.integrations.watch.description import (
    bare,
    bare_optimizer,
    configuration_of,
    file_name,
    learning_rate_of,
    left_out,
    manifest_of,
    recorder_of,
    refuse_what_cannot_be_watched,
)
from gradiometer.integrations.watch.findings import Findings
from gradiometer.integrations.watch.losses import Losses, in_words, no_loss
from gradiometer.integrations.watch.updates import Following, Pace, Updates, before_the_update
from gradiometer.measurement.batch import Batch
from gradiometer.measurement.loss import Loss
from gradiometer.measurement.objective import Objective
from gradiometer.measurement.reading import Sampling
from gradiometer.measurement.step import TrainingStep
from gradiometer.run.budget import Budget
from gradiometer.run.ranks import Ranks
from gradiometer.run.reader import Run
from gradiometer.run.recorder import Recorder


class Watch:
    """What `watch` returns: a context manager around a loop."""

    def __init__(
        self,
        model: nn.Module,
        optimizers: Sequence[torch.optim.Optimizer],
        loss: Loss | None = None,
        *,
        out: Path,
        name: str,
        sampling: Sampling,
        accumulation: int,
        scaler: Any,
        asked: Mapping[str, Any],
        gauges: Asked,
        to: Sequence[Any],
    ) -> None:
        model, self.ranks, self._optimizers = bare(model), Ranks.here(), [bare_optimizer(one) for one in optimizers]
        sharded = is_sharded(model)
        reshard(model)
        refuse_what_cannot_be_watched(model, optimizers)
        refuse_shards_that_cannot_be_heard(model, self.ranks)
        if not accumulation >= 1:
            raise BadArgument(f"`accumulation` must be at least 1 backward an update, got {accumulation}.")
        self._cadenced = bool(asked["budget"]) and any(not kind.own_steps for kind in gauges.kinds)
        if sharded and accumulation == 1 and self.ranks.alone and self._cadenced:
            raise BadArgument(
                "`model` is sharded (FSDP) over one process, and half of a batch is not run beside it: start several "
                "processes, or accumulate several backwards an update and say so with `accumulation`."
            )
        if loss is None and accumulation == 1 and self.ranks.alone and self._cadenced:
            raise BadArgument(
                "`loss` is left out, and one backward a step shows no spread: give loss=lambda model, batch: ..., or "
                "accumulate several backwards an update and say so with `accumulation`."
            )
        self._out, self._name, self._sampling, self._accumulation = out, file_name(name), sampling, accumulation
        self._asked, self._gauges = asked, gauges
        self._objective = Objective(model, no_loss if loss is None else in_words(loss))
        looks_back = any(kind.looks_back for kind in gauges.kinds)
        self._updates = Updates(self._optimizers, self._objective, sampling) if looks_back else None
        self._waiting: TrainingStep | None = None
        self.budget = Budget(asked["budget"])
        self._catcher = Catcher(
            self._objective,
            sampling,
            self.budget,
            self.ranks,
            accumulation=accumulation,
            scaler=scaler if scaler is not None and scaler.is_enabled() else None,
            has_loss=loss is not None and not sharded,
            seed=asked["seed"],
            warn=self._warn,
        )
        self._losses = Losses(
            self._objective,
            self._warn,
            blame=not sharded,
            accumulation=accumulation,
            rank=None if self.ranks.alone else self.ranks.rank,
            seed=asked["seed"],
        )
        self._trackers = Trackers(to, asked["level"], self._warn)
        self._recorder: Recorder | None = None
        self._restored: Mapping[str, Any] = {}
        self._parts: list[Part] = []
        self._handles: list[Any] = []
        self._begun = self._was_called = False
        self._first_step = 0
        self._pace = Pace(self._warn)
        self._looked_at = 0.0
        self.steps = 0
        """Updates seen; the index of the step to come."""

    def __enter__(self) -> "Watch":
        if self._handles or self._begun:
            raise BadArgument("`watch` is entered once, around the whole training: call it again for another.")
        self._handles = [self._optimizers[0].register_step_post_hook(self._was_updated)]
        if self._updates is not None:
            look = before_the_update(self._measure_what_waited)
            self._handles.append(self._optimizers[0].register_step_pre_hook(look))
        if self._cadenced:
            self._catcher.listen()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._catcher.rest()
        for handle in self._handles:
            handle.remove()
        self._handles = []
        if self._recorder is None:
            return
        with self._recorder as recorder:
            self._losses.fetch()
            self._trackers.tell(recorder, self.budget.clock(), at_once=True)
            reason = {} if error is None else {"reason": f"{type(error).__name__}: {error}"}
            recorder.event("finished" if error is None else "interrupted", self.steps, **reason)

    @property
    def run(self) -> Run | None:
        """The run as it lies on the disk now; None before the first step, and on all processes but the first."""
        if self._recorder is None:
            return None
        if not self._recorder.closed:
            self._losses.fetch()
            self._recorder.flush()
        return Run.open(self._recorder.folder.path, gauges=self._gauges.given)

    @property
    def overhead(self) -> dict[str, Any]:
        """What the instrument was allowed and what it used, as shares of the training time; empty before any."""
        return {} if self._recorder is None else self._recorder.overhead

    def findings(self) -> Findings:
        """What the run says so far, the most urgent first; print it."""
        run = self.run
        return Findings(() if run is None else diagnose(run).findings)

    def step(self, loss: Tensor | float, batch: Batch) -> None:
        """A backward was made: call it after `backward` and before `optimizer.step()`; clip before or after.

        Args:
            loss: The mean loss of the batch, before it is divided for accumulation or scaled.
            batch: The examples it is of, as `loss` takes them: any tree with the examples along the first axis.
        """
        if not self._handles:
            raise BadArgument("`step` is called inside of `with watch(...) as w:`, around the whole training.")
        self._catcher.settle()
        self._looked_at = self.budget.clock()
        self._waiting = None  # of a step that was never made, as a scaler has it
        self._was_called = True
        with self.budget.spending():
            self._parts.append(part_of(batch, loss))
            if not self._begun:
                self._begin()
            self._follow()
            if self._catcher.listening:
                self._catcher.catch(self._parts)
            self._losses.look_at(self.steps, self._parts)
            if len(self._parts) == self._accumulation:
                if self._catcher.listening:
                    with as_written():
                        self._measure()
                self._close_step()
        self._decide_now_or_later()

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint of yours keeps, so that the run goes on: plain values, no tensors."""
        if self._recorder is None:
            return {"steps": self.steps}
        if not self._recorder.closed:
            self._losses.fetch()
            self._recorder.flush()
        return {"steps": self.steps, "run": str(self._recorder.folder.path), "recorder": self._recorder.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with the run of a checkpoint; before the first step."""
        if self._begun:
            raise BadArgument("`state` was given after the first step: load it before, and the same run goes on.")
        if "steps" not in state:
            raise BadArgument("`state` is none of a watch: give what `state_dict` returned.")
        self.steps, self._restored = int(state["steps"]), state

    def _begin(self) -> None:
        """The run's folder and its recorder, now that the size of a batch is known."""
        self._begun, self._first_step = True, 0 if "run" in self._restored else self.steps
        self.budget.start()
        if not self.ranks.first:
            return
        size = self._parts[0].size * self._accumulation * self.ranks.count
        configuration = configuration_of(
            self._optimizers[0],
            self._objective,
            name=self._name,
            batch_size=size,
            accumulation=self._accumulation * self.ranks.count,
            draw=self._sampling.draw,
            **self._asked,
        )
        manifest = manifest_of(configuration, self._objective, self._sampling, self.ranks, self._gauges)
        recorder = recorder_of(
            configuration, manifest, self._gauges, self._out, self.budget, self._restored, self.steps
        )
        self._recorder = self._losses.recorder = recorder
        if told := left_out(self._objective, self._optimizers):
            self._warn(told)

    def _follow(self) -> None:
        """Gauges with steps of their own look at Φ, which is the same at all backwards of a step."""
        if self._recorder is None or len(self._parts) > 1 or not self._recorder.follows(self.steps):
            return
        if self._catcher.changed:
            return
        size = self._parts[0].size * self._accumulation * self.ranks.count
        self._recorder.follow(Following(self._objective, self.steps, size, learning_rate_of(self._optimizers[0])))
        if self._updates is not None:
            self._updates.pass_by(self.steps)

    def _measure(self) -> None:
        """The step that was heard; where a gauge looks back, it waits until it is known what the update takes of it."""
        rate, updates = learning_rate_of(self._optimizers[0]), self._updates
        caught = self._catcher.step(
            self._parts,
            index=self.steps,
            learning_rate=rate,
            proposal=self._proposal(),
            motion=None if updates is None else partial(updates.motion, index=self.steps, learning_rate=rate),
        )
        if caught is None or self._recorder is None:
            return
        if updates is None:
            self._record(self._recorder, caught)
            return
        self._waiting = caught
        if self.ranks.alone:
            self._catcher.rest()

    def _measure_what_waited(self) -> None:
        """The update is about to be made, and `.grad` is as it will see it."""
        waiting, self._waiting = self._waiting, None
        if waiting is None or self._recorder is None:
            return
        self._catcher.wait()
        with self.budget.spending(), as_written():
            self._record(self._recorder, waiting)
        if self.ranks.alone:
            self._decide()

    def _record(self, recorder: Recorder, caught: TrainingStep) -> None:
        recorder.measure(caught)
        self._trackers.tell(recorder, self.budget.clock())

    def _close_step(self) -> None:
        """The losses of the step are kept, and the steps of which each should have been an update are counted."""
        self._losses.keep(self.steps, self._parts)
        self.steps, self._parts = self.steps + 1, []
        self._pace.stepped(self.steps)

    def _decide_now_or_later(self) -> None:
        """Later where a step waits, as its cost is not known yet; of several processes now, as the others do."""
        if not self._parts and (self._waiting is None or not self.ranks.alone):
            self._decide()

    def _decide(self) -> None:
        """Whether the step to come is measured; when the time that the one before took has been counted."""
        if self._is_due():
            self._catcher.listen()
        elif self._catcher.listening:
            self._catcher.rest()

    def _is_due(self) -> bool:
        due = self._recorder is not None and self._recorder.due(self.steps)
        if self.ranks.alone or not self._asked["budget"]:
            return due
        return self.steps >= self._catcher.next_due

    def _proposal(self) -> int:
        """Of several processes: the step the first one would measure next, given what one takes and may take."""
        if (every := self._asked["every"]) is not None:
            return int((self.steps // every + 1) * every)
        return self.steps + self.budget.steps_to_earn(
            self.steps - self._first_step + 1,
            under_way=self.budget.clock() - self._looked_at,
            kind="" if self._recorder is None else self._recorder.kind(ahead=1),
        )

    def _warn(self, text: str) -> None:
        if self._recorder is not None:
            self._recorder.event("warning", self.steps, text=text)

    def _was_updated(self, *_: Any) -> None:
        """The optimizer was called: what was not closed by `step` is closed here, unmeasured.

        After the update and not before it: an optimizer that is given a closure makes its backward inside.
        """
        self._pace.updates += 1
        was_called, self._was_called = self._was_called, False
        if self._parts:
            with self.budget.spending():  # fewer backwards than usual, at the end of an epoch
                self._close_step()
            self._decide()
        elif self._catcher.listening and self._catcher.has_heard:
            if was_called:  # the update had more backwards than the one that is measured, as SAM's has
                self._catcher.forget()
            else:
                self._catcher.forget_what_was_not_told()
        self._catcher.at_the_door = False
