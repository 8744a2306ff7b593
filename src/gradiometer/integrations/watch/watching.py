"""The object that `watch` returns."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from gradiometer.arguments import check_number
from gradiometer.errors import BadArgument, Unsupported
from gradiometer.gauges import Asked
from gradiometer.integrations.gradients import LastGradient
from gradiometer.integrations.watch.announced import Announced, Announcer
from gradiometer.integrations.watch.description import (
    configuration_of,
    known_sampling,
    left_out,
    manifest_of,
    shows_products,
)
from gradiometer.integrations.watch.inputs import Inputs
from gradiometer.integrations.watch.observers.first_steps import FirstSteps
from gradiometer.integrations.watch.observers.gauges import Gauges
from gradiometer.integrations.watch.observers.kept_updates import UpdateKeeper
from gradiometer.integrations.watch.observers.losses import Losses
from gradiometer.integrations.watch.observers.newest_updates import NewestUpdates
from gradiometer.integrations.watch.observers.observer import (
    Observer,
    Observers,
    Start,
    Step,
    Update,
)
from gradiometer.integrations.watch.observers.optimizers import Settings, UpdateCounter
from gradiometer.integrations.watch.observers.products import (
    GradientProducts,
    early_cost,
    reads_products,
)
from gradiometer.integrations.watch.observers.triage.recorder import TriageRecorder
from gradiometer.integrations.watch.record import Announcements, Findings, WatchedRun
from gradiometer.integrations.watch.requests.evaluation import LossesGiven, evaluation
from gradiometer.integrations.watch.requests.request import Request
from gradiometer.integrations.watch.scripting import WithoutHooks
from gradiometer.integrations.watch.shield import Shield, WarningLog, attempt, reason_of
from gradiometer.integrations.watch.subject import Subject, moved
from gradiometer.measurement.artifact import Evaluation
from gradiometer.measurement.batch import Batch, batch_size
from gradiometer.requests import request_of
from gradiometer.run.budget import START, Budget
from gradiometer.run.clock import Turns
from gradiometer.run.ranks import Ranks
from gradiometer.run.reader import NEEDED_FOR_TESTS, TESTABLE, TESTED, Run
from gradiometer.run.recorder import Recorder

if TYPE_CHECKING:
    from gradiometer.integrations.watch.requests.forks import LoopForks
    from gradiometer.integrations.watch.seen_batch import SeenBatch
    from gradiometer.loop import Alternative, Fork
    from gradiometer.loop.recorded.incidents import IncidentCause

OUTSIDE = "`step` must be called inside `with watch(...) as w:`, around the whole training."


class Watch:
    """A watched training, made by `watch`. Use it as a context manager around the whole loop.

    It is a list of observers, and the run that they write. `certify`, `sharpness`, `snapshot` and
    `ensemble` look at the model on request: call them inside of the `with` block, after the first
    step, or after it. Training stays the same, bit for bit.

    Args:
        subject: The training.
        out: Folder of the runs.
        name: Beginning of the run's name.
        asked: The settings `every`, `parts`, `level` and `gauges`.
        gauges: The gauges.
        to: Trackers that also get the estimates.
        announcements: What is printed, and the page at the end.
        trials: Share of the training time that forks may use.
        checkpoints: Number of earlier states that are kept.
        data: The training data; None if they are not known.
    """

    def __init__(
        self,
        subject: Subject,
        *,
        out: Path,
        name: str,
        asked: Mapping[str, Any],
        gauges: Asked,
        to: Sequence[Any],
        announcements: Announcements,
        trials: float = 0.0,
        checkpoints: int = 0,
        data: Any = None,
    ) -> None:
        self._subject = subject
        # The context for everything that training calls: after the first update its errors become
        # warnings.
        self.shield = Shield(self._stop, passes=subject.source.is_ours)
        self._warn = WarningLog(self._step_of_warning, subject.tell)
        self._failures = 0
        # What a test would need besides, as it is noted in the run.
        self._missing: list[str] | None = None
        # True after the block, and then the versions of the parameters at its end.
        self._has_ended = False
        self._at_end: list[int] = []
        self._handles: list[Any] = []
        # What stands for batches that are not given.
        self._inputs: "Inputs | SeenBatch | None" = None
        self._announcer = Announcer(subject, self.step, self._warn, self.shield)
        self._settings = Settings(subject, self._warn)
        self._updates = UpdateCounter(self._warn, partial(self._settings.search, self._follow))
        self.losses = Losses(subject, self._warn, self._updates)
        self.record = WatchedRun(
            out=out,
            name=name,
            shield=self.shield,
            warn=self._warn,
            announcements=announcements,
            asked=asked,
            gauges=gauges,
            is_first=subject.source.is_first,
            write_rest=self._write_rest,
        )
        products = reads_products(
            subject.optimizers, gauges.names, supported=shows_products(subject, asked)
        )
        self.gauges = Gauges(
            subject,
            self._settings,
            self.losses,
            self.shield,
            self._warn,
            kinds=gauges.kinds,
            elsewhere=() if products is None else products[1],
            by_default=gauges.by_default,
        )
        last = LastGradient(subject.objective.parameters, subject.optimizers, subject.scaler)
        self._triage = TriageRecorder(subject, last, self._warn, lambda: self._updates.count)
        from gradiometer.integrations.trackers import Trackers  # noqa: PLC0415 (needed by a watch alone)
        from gradiometer.integrations.watch.observers.trackers import TrackerFeed  # noqa: PLC0415
        from gradiometer.integrations.watch.seen_loss.seen import SeenLoss  # noqa: PLC0415

        seen_loss = SeenLoss(subject)
        kept_updates = UpdateKeeper(subject, self._warn, seen_loss)
        newest_updates = NewestUpdates(subject, self._warn)
        self.request = Request(
            subject, self.record, self.losses, kept_updates, newest_updates, seen_loss, data
        )
        kept_updates.keep_states(checkpoints)
        if checkpoints:
            newest_updates.keep()
        self._first_steps = FirstSteps(subject, self._warn, self.shield)
        observers: list[Observer] = [seen_loss, kept_updates, newest_updates]
        if trials:
            from gradiometer.integrations.watch.observers.trials import Trials  # noqa: PLC0415

            tried = Trials(
                trials,
                subject.budget,
                self.record,
                self.forks,
                self._warn,
                announcements.say,
                checkpoints=checkpoints,
            )
            observers.insert(0, tried)
        if products is not None:
            # Early readings of gauges beside the noise, if products show the noise: with 20 batch
            # sharpnesses a run of 300 steps of a small network paid 29 % for them alone.
            subject.budget.promised = 6
            observers.append(
                GradientProducts(
                    subject,
                    last,
                    self._triage,
                    *products,
                    all_steps=asked["every"] == 1,
                    made=lambda: self._updates.count,
                    ended=self.gauges.take_over,
                )
            )
        feed = TrackerFeed(Trackers(to, asked["level"], self._warn), self.losses)
        observers.insert(0, self._first_steps)
        observers += [self._triage, self._updates, self._settings, self.losses, self.gauges, feed]
        self.observers = Observers(observers)

    def __enter__(self) -> "Watch":
        if self._handles or self.record.has_begun:
            raise BadArgument(
                "`watch` can be entered only once: call `watch` again for another training."
            )
        first, *others = self._subject.optimizers
        self._follow(first)
        self._handles += [one.register_step_post_hook(self._after_another) for one in others]
        if self._subject.has_loss:
            from gradiometer.integrations.watch.seen_batch import SeenBatch  # noqa: PLC0415

            self._inputs = SeenBatch(self._subject, self.shield)
        else:
            self._inputs = Inputs(self._subject.called, self.shield)
        self._handles += [self._inputs, self._announcer, WithoutHooks()]
        self._handles += self._first_steps.start()
        self.gauges.start()
        self.observers.plan()
        if isinstance(self.budget.clock, Turns):
            self.budget.clock.enter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        with self.shield:
            for observer in self.observers:
                with self.shield:
                    observer.close(error)
        while self._handles:
            with self.shield:
                self._handles.pop().remove()
        if not self._subject.source.is_ours:
            self.record.close(error, self.losses.steps)
        with self.shield:
            if isinstance(self.budget.clock, Turns):
                self.budget.clock.leave()
        self._has_ended = True
        with self.shield:
            self._at_end = self._versions()
        self.observers.due = 0  # every later step is one to be warned of

    def step(self, loss: Tensor | float, batch: Batch | None = None) -> None:
        """Record one backward. Call it after `backward` and before `optimizer.step()`; clip before
        or after it.

        Args:
            loss: The mean loss of the batch, before it is divided for accumulation or scaled.
            batch: The examples of that loss, as `loss` takes them: any tree with the examples along
                the first axis. Without it, the first tensor that the model was called with stands
                for the batch: its rows are the examples, and labels are those that a loss of torch
                has compared. What runs the model again needs the batch.
        """
        if Turns.several:
            with self.shield:
                self.budget.take_turn()
        examples = batch
        if batch is None:
            examples = self._batch_seen(loss)
            batch = examples if self._subject.has_loss else None
        elif self._inputs is not None:
            inputs, self._inputs = self._inputs, None
            with self.shield:
                inputs.remove()
        losses = self.losses
        step, place = losses.steps, len(losses.parts)
        is_due = step >= self.observers.due
        if is_due and not self._handles:
            self._refuse_outside()
            return
        try:
            if is_due:
                self._attend(loss, examples, batch)
            else:
                losses.take(loss, examples)
        except Exception as error:
            self._fail(error, step, place)

    def findings(self) -> Findings:
        """The findings so far, the most urgent first, and the warnings."""
        return self.record.findings()

    def state_dict(self) -> dict[str, Any]:
        """Plain values, without tensors, for your checkpoint: with them the same run can be
        continued."""
        return self.record.state_dict(self.steps)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue the run of a checkpoint. Call it before the first step."""
        self.losses.resume(self.record.load_state_dict(state))

    @property
    def run(self) -> Run | None:
        """The run as it is on disk now; None before the first step, unless a state was loaded, if
        it cannot be read, and on ranks other than 0."""
        return self.record.run

    @property
    def steps(self) -> int:
        """Number of updates so far, which is the index of the next step."""
        return self.losses.steps

    @property
    def budget(self) -> Budget:
        """The account of the time."""
        return self._subject.budget

    @property
    def ranks(self) -> Ranks:
        """The processes that call the watch together."""
        return self._subject.source.ranks

    @property
    def overhead(self) -> dict[str, Any]:
        """The share of the training time that measuring may use and has used; empty before the
        first step."""
        recorder = self.record.recorder
        return {} if recorder is None else recorder.overhead

    @property
    def measuring(self) -> bool:
        """True if the coming step is measured, or may be.

        A loop that replays a CUDA graph makes such a step without it: hooks do not run in a replay.
        """
        return self.gauges.reader.active or not self.record.has_begun

    def note_settings(self) -> None:
        """Record the settings of the optimizers, which are those of the coming step."""
        self._settings.note(self.steps)

    def batches(self, loader: Iterable[Any]) -> Announced:
        """The batches of a loader, for a loop that makes `backward` and the update in one call.

        Use it in place of `step`, which is then called at the end of every `backward` through the
        model:

            with watch(model, optimizer, loss=loss) as w:
                for batch in w.batches(loader):
                    train_one_step(model, optimizer, batch)

        The loss is the number that `backward` was called on, times `accumulation`, without the
        scale of `scaler`. The second `backward` for the same batch is not measured. The sampling is
        that of the first loader, if it is a DataLoader with a sampler of torch and `sampling` was
        not given.

        Args:
            loader: Any iterable. Its batches are passed on as they are. On a measured step the
                batch is moved to the device of the model.

        Returns:
            An iterable with the length and the attributes of the loader.
        """
        self.request.draw_from(loader)
        sampling = known_sampling(loader)
        if sampling is not None and not self.record.has_begun:
            self._subject.batches.learn(sampling)
        return Announced(self.batch, loader)

    def batch(self, batch: Batch) -> Batch:
        """Announce the examples of the next `backward`, and return them unchanged. Use it in place
        of `batches` if the loop changes its batches after loading (mixup, augmentation on the
        device), or is not an iteration of a loader.
        """
        if not self._handles:
            raise BadArgument(
                "`batch` must be announced inside `with watch(...) as w:`, which goes around the "
                "whole training."
            )
        self._announcer.announce(batch)
        return batch

    def evaluated(self, test: LossesGiven | None = None, train: LossesGiven | None = None) -> None:
        """Record an evaluation of the model as it is now, so that overfitting can be seen. Call it
        before the block of `with watch(...) as w:` ends; later evaluations are not recorded, with a
        warning.

            w.evaluated(test=test_losses, train=losses_on_some_training_examples)

        Args:
            test: The loss on held-out examples: their mean, or the loss of every example, whose
                mean has an interval. Losses of single examples are kept in the run, 4 bytes each,
                so that runs are compared example by example: give them in the same order.
            train: The same on training examples, in eval mode.

        Raises:
            BadArgument: An argument is not a number, a tensor or a list of numbers.
        """
        if self._subject.source.is_first:
            self.record_evaluation(evaluation(test=test, train=train))

    def record_evaluation(self, evaluation: Evaluation) -> None:
        """Record an evaluation whose estimates are known, such as "test_loss"."""
        has_ended = self.record.has_ended
        self.record.evaluation(self.steps, evaluation)
        if not has_ended:
            self._triage.evaluated()

    @property
    def forks(self) -> "LoopForks":
        """Forks of this loop, whose rooms are loaded when the first one is asked for."""
        from gradiometer.integrations.watch.requests.forks import LoopForks  # noqa: PLC0415

        return LoopForks(self.request)

    def fork(
        self,
        alternatives: "Sequence[Alternative | str] | Alternative | str",
        *,
        batches: Any = None,
        at: int | None = None,
        **settings: Any,
    ) -> "Fork | None":
        """What would have happened from here with other settings: `gradiometer.loop.fork` for the
        watched loop.

        Model, optimizer, loss, scaler, accumulation, `groups`, the number of updates and what is
        left are those of the watch. Call it after `optimizer.step()`. The training stays the same,
        bit for bit, and the fork is kept in the run. What it will cost is printed before. Its time
        is reported in `overhead`, outside the budget. On several processes rank 0 forks and the others get None.

        Args:
            alternatives: What is compared with going on as it is, such as "rate 2x", or a list.
            batches: The training data, as in `gradiometer.loop.Loop`. Default: the loader that the
                watch was given as `sampling` or in `w.batches`.
            at: An earlier step, to fork from the newest state that is kept from there or before,
                also after the last update: see `checkpoints` of `watch`.
            settings: The other arguments of `gradiometer.loop.Loop`, such as `evaluate` and
                `scheduler`, and of `gradiometer.loop.fork`, such as `horizon`.

        Raises:
            BadArgument: An argument is invalid, there was no step yet, or `loss` is missing.
            Unsupported: The training cannot be copied.

        Example:
            >>> import torch
            >>> from gradiometer import supervised, watch
            >>> train, model = (torch.ones(16, 1), torch.arange(16.0)[:, None]), torch.nn.Linear(1, 1, bias=False)
            >>> loss, optimizer = supervised(torch.nn.MSELoss()), torch.optim.SGD(model.parameters(), lr=0.01)
            >>> with watch(model, optimizer, loss=loss, page=False, quiet=True) as w:
            ...     for _ in range(10):
            ...         optimizer.zero_grad()
            ...         value = loss(model, train)
            ...         value.backward()
            ...         w.step(value, train)
            ...         optimizer.step()
            ...     found = w.fork("rate 2x", batches=train, batch_size=4, horizon="20 updates")
            >>> found.best()
            'rate 2x'
        """
        data = self.request.data if batches is None else batches
        if data is None:
            raise BadArgument(
                "`batches` is missing: give the training data, such as your DataLoader, here or as "
                "`sampling` of `watch`."
            )
        return self.forks.fork(batches=data, alternatives=alternatives, at=at, **settings)

    def test(self, *, share: float = 0.5, batches: Any = None) -> "Findings":
        """Test what may limit the training on copies of it, and return the findings with the
        result. Call it when the training is over, at the end of the `with` block or after it.

        At most three changes are tried, those of the claims or doubts that lead: a higher rate, a
        decay at the end, or a lower rate. What it may cost is printed before. The training stays
        the same, bit for bit.

        After the block nothing is known of updates of a large model (above 4 million numbers in
        model and optimizer), so that no copy is compared with them: call it inside.

        Args:
            share: The largest share of the training time that the test may take.
            batches: The training data, as in `fork`. Default: the loader that the watch was given
                as `sampling` or in `w.batches`.

        Raises:
            BadArgument: There was no step yet, `share` is no positive number, or `loss` or the
                data are missing.
            Unsupported: The training cannot be copied, or the model was changed after the block.
        """
        from gradiometer.integrations.watch.observers.trials import Trials  # noqa: PLC0415

        check_number("share", share)
        if not share > 0:
            raise BadArgument(f"`share` must be above 0, got {share}: write 0.5 for half.")
        if self.steps and not self._subject.has_loss:
            self.request.loss_seen()
        if batches is not None:
            self.request.data = batches
        if self.request.data is None:
            raise BadArgument(
                "`batches` is missing: give the training data, such as your DataLoader, here or as "
                "`sampling` of `watch`."
            )
        if not self.steps:
            raise BadArgument("`step` was not called yet, so there is nothing to test.")
        if self._has_ended and self._versions() != self._at_end:
            raise Unsupported(
                "`model` was changed after the `with` block, and a test goes on from the end of the "
                "training: call w.test() before, or as the last line of the block."
            )
        self.record.event(TESTED, self.steps)
        Trials(
            share,
            self.budget,
            self.record,
            self.forks,
            self._warn,
            self.record.announcements.say,
            on_request=True,
        ).make_now()
        if self._has_ended:
            self.budget.stop()
            self._at_end = self._versions()
        return self.findings()

    def _versions(self) -> list[int]:
        """How often each parameter was written, of the model as it is: pruning replaces some."""
        model = self._subject.objective.model
        return [parameter._version for parameter in nn.Module.parameters(model)]

    def incident(self, *, batches: Any, **settings: Any) -> "IncidentCause | None":
        """Why the loss went wrong where it was highest above its level, or no longer finite: the
        example, the batch, the learning rate or the layer.

        It needs `checkpoints` above 0 in `watch`, which keeps the newest updates. Those of the
        worst incident are made again on copies, each time with something left out. The training
        stays the same, bit for bit, and the cause becomes a finding of the run. It may be asked
        for after the `with` block, too, as when the loop has raised an error.

        Args:
            batches: The training data, as in `fork`.
            settings: The other arguments of `gradiometer.loop.Loop`.

        Raises:
            BadArgument: An argument is invalid, or no incident was seen.
            Unsupported: The training cannot be copied.

        Example:
            >>> import torch
            >>> from gradiometer import supervised, watch
            >>> inputs = torch.randn(512, 1, generator=torch.Generator().manual_seed(0))
            >>> targets = inputs + torch.randn(512, 1, generator=torch.Generator().manual_seed(1))
            >>> targets[331] = 300.0
            >>> model, loss = torch.nn.Linear(1, 1), supervised(torch.nn.MSELoss())
            >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
            >>> with watch(model, optimizer, loss=loss, checkpoints=1, page=False, quiet=True) as w:
            ...     for start in range(0, 512, 8):
            ...         batch = inputs[start : start + 8], targets[start : start + 8]
            ...         optimizer.zero_grad()
            ...         value = loss(model, batch)
            ...         value.backward()
            ...         w.step(value, batch)
            ...         optimizer.step()
            ...     found = w.incident(batches=(inputs, targets), batch_size=8)
            >>> found.cause, found.step, found.rows
            ('example', 41, (3,))
        """
        return self.forks.incident(batches, **settings)

    def go_back(self, step: int) -> int:
        """Put model, optimizer and scaler back to the newest state that is kept from a step or
        before it: see `checkpoints` of `watch`. Schedulers and data go on from where they are.

        Args:
            step: The step, such as the one that an incident names.

        Returns:
            The step of the state.

        Raises:
            BadArgument: No state is kept from there or before.
            Unsupported: The training has several processes, and only rank 0 keeps states.
        """
        return self.forks.go_back(step)

    def begin(
        self, recorder: Recorder, step: int, losses: Sequence[float], *, has_facts: bool
    ) -> None:
        """Follow a training of ours in its own run.

        Args:
            recorder: Writes the run.
            step: The next step.
            losses: The losses of the steps before, if the run is resumed.
            has_facts: True if the run has the facts of triage already.
        """
        self.record.begin_elsewhere(recorder)
        self._warn.attach(recorder)
        self.losses.resume(step, losses)
        start = Start(recorder, step, step, is_new=False, has_facts=has_facts)
        self.observers.begin(start)
        self.record.write_evaluations()
        self.gauges.decide()
        self.observers.plan()

    def _attend(self, loss: Any, examples: Batch, given: Batch | None) -> None:
        """A backward at which an observer has something to do.

        Args:
            loss: The mean loss of the batch.
            examples: The batch, or what stands for it.
            given: The batch, if it was given.
        """
        losses = self.losses
        place = len(losses.parts)
        is_last = place + 1 >= self._subject.source.backwards
        event = Step(losses.steps, loss, examples, given, place, is_last)
        if not self.record.has_begun:
            self._make_run(event)
        self.observers.at_step(event)

    def _step_of_warning(self) -> int:
        """The step under way, or the next one."""
        under_way = self.observers.under_way
        return self.steps if under_way is None else under_way

    def _fail(self, error: Exception, step: int, place: int) -> None:
        """An error at a backward: it is counted all the same."""
        self.shield.caught(error)
        self.losses.abandon(step, place)
        with self.shield:
            self.gauges.leave()
        self.observers.plan()

    def _make_run(self, event: Step) -> None:
        """Make the run's folder and recorder, now that the batch size is known."""
        subject, source, record = self._subject, self._subject.source, self.record
        axis = subject.batches.axis
        examples = batch_size(moved(event.batch, axis, 0) if axis else event.batch)
        if not examples:
            return
        self.budget.start()
        size = source.batch_size(examples)
        if size == 1 and self.gauges.needs_spread:
            raise BadArgument(
                "`batch_size` is 1, so a step has no spread: raise batch_size to at least 2, or set "
                "budget to 0."
            )
        with self.budget.spending(START):
            configuration = configuration_of(subject, record.name, size, record.asked)
            gauges = record.gauges.made(configuration, subject.groups)
            source.begin(gauges, self.budget)
            if not source.is_first:
                record.begin_elsewhere()
                return
            recorder = record.begin(
                manifest_of(configuration, subject, record.gauges),
                gauges,
                self.steps,
                budget=self.budget,
                every=configuration.every,
                elsewhere=self.gauges.elsewhere,
            )
            recorder.cadence.start(self.steps)
            early = early_cost(self.budget.share, products=bool(self.gauges.elsewhere))
            record.announce(configuration, early=early, planned=self.budget.planned)
            is_new = not record.is_continued
            self.observers.begin(Start(recorder, self.steps, self.steps + 1, is_new=is_new))
            self._note_what_tests_need()
            record.write_evaluations()
            text = left_out(subject.objective, subject.optimizers)
            if text:
                self._warn(text)

    def _note_what_tests_need(self) -> None:
        """Note which arguments of `watch` a test would need besides, if that is new."""
        if self._subject.source.is_ours:
            return
        given = (
            self.request.has_loss,
            self.request.data is not None,
            self.request.kept_updates.states > 0,
        )
        missing = [one for one, has in zip(NEEDED_FOR_TESTS, given, strict=True) if not has]
        if missing != self._missing:
            self._missing = missing
            self.record.event(TESTABLE, self.steps, missing=missing)

    def _write_rest(self) -> None:
        """Give the recorder what waits."""
        self._settings.note(self.steps)
        self.losses.write()
        self._triage.write()
        self._note_what_tests_need()

    def _batch_seen(self, loss: Any) -> Batch:
        """The batch as calls of the model show it; an empty batch, whose loss alone counts, if they
        are not known."""
        try:
            if self._inputs is None:
                raise BadArgument(
                    "`batch` is missing: it was given before. Call w.step(loss, batch) at every "
                    "step."
                )
            return self._inputs.take(loss)
        except Exception as error:
            if self._handles:
                self.shield.caught(error)
            else:
                self._refuse_outside()
            return torch.empty(0)

    def _refuse_outside(self) -> None:
        """Refuse a step before the block. After it training goes on, with one warning."""
        if not self._has_ended:
            raise BadArgument(OUTSIDE)
        self._warn(
            "`step` was called after `with watch(...) as w:` had ended: such steps are not "
            "recorded; put the whole training inside of the block"
        )

    def _follow(self, optimizer: torch.optim.Optimizer) -> None:
        """Follow the updates of an optimizer."""
        self._handles += self._updates.count_steps_inside(optimizer, lambda: self.steps)
        self._handles.append(optimizer.register_step_post_hook(self._on_update))
        self._handles += self.gauges.follow(optimizer)

    def _on_update(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        """The optimizer was called."""
        try:
            rate = optimizer.param_groups[0]["lr"]
            if rate is not self._triage.rate:
                self._triage.note_rate(max(self.losses.steps - 1, 0), rate)
            self._updates.made()
            if self.losses.parts or self.observers.awaiting:
                self._attend_update()
        except Exception as error:
            self.shield.caught(error)
        self.shield.before_first_update = False
        if Turns.several:
            with self.shield:
                self.budget.take_turn()

    def _attend_update(self) -> None:
        """An update that an observer waits for, or that came before its last backward."""
        update = Update(self.steps - 1)
        try:
            if self.losses.parts:
                backwards = len(self.losses.parts)
                self._updates.fell_short(self.steps, backwards, self._subject.source.backwards)
                self.losses.fall_short()
            self.observers.updated(update)
        except Exception as error:
            self.shield.caught(error)

    def _after_another(self, *_: Any) -> None:
        """Another optimizer than the first was called: it may step after the backward."""
        with self.shield:
            kept_updates = self.request.kept_updates
            if kept_updates.awaits_update:
                kept_updates.updated(Update(self.losses.steps - 1))
                self.observers.plan()

    def _stop(self, error: Exception) -> None:
        """An error of our own after the first update: stop measuring. After a second one, stop
        recording too."""
        self._failures += 1
        if self._failures > 2:
            return
        stopped = "measuring has stopped" if self._failures == 1 else "recording has stopped"
        step = self._step_of_warning()
        text = f"{stopped} at step {step:,}, and training continues: {reason_of(error)}"
        attempt(self.gauges.stop, lambda: self._warn(text, stopped="all"))
        if self._failures > 1:
            self.losses.stop()

    def __getattr__(self, name: str) -> Callable[..., Any]:
        """A request, which is loaded when it is made."""
        if name.startswith("_"):  # Python asks every object for such names
            raise AttributeError(f"'Watch' object has no attribute {name!r}")
        return request_of(self.request, name)

    def __repr__(self) -> str:
        run = self.run
        return f"<watch: {'no step yet' if run is None else f'{run.path}, {run.steps:,} steps'}>"

    def _repr_html_(self) -> str:
        """A card for notebooks: the run and its findings."""
        return self.record.card()
