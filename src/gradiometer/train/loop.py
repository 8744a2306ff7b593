"""The training loop: batch, backward, measure, update; with its watch, checkpoints, snapshots and
policies; and the same on several processes, of which rank 0 runs the loop."""

import os
import shlex
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from threading import Event
from types import FrameType
from typing import NoReturn, Protocol, runtime_checkable

import msgspec

from gradiometer.convergence.averaging import tracking_layers
from gradiometer.convergence.trajectory.endpoint import NAME as ENDPOINT
from gradiometer.convergence.trajectory.trajectory import Trajectory
from gradiometer.errors import BadArgument, Diverged, GradiometerError, Interrupted, bounded
from gradiometer.exploration.ensembles.snapshots import SnapshotCollector
from gradiometer.gauges import Asked, GaugesAsked, recorded_gauges
from gradiometer.integrations.watch.observers.triage.recorder import EVENT as FACTS
from gradiometer.integrations.watch.record import Announcements
from gradiometer.integrations.watch.sources.own_training import OwnTraining
from gradiometer.integrations.watch.subject import Batches, Probe, Subject
from gradiometer.integrations.watch.watching import Watch
from gradiometer.interruption import StopAsked, heeding
from gradiometer.jobs.job import threads
from gradiometer.measurement.gauge import Gauge
from gradiometer.problems.evaluation import evaluate
from gradiometer.problems.problem import Problem, refresh
from gradiometer.problems.user_code import user_code
from gradiometer.run.artifacts import save_snapshot
from gradiometer.run.budget import Budget
from gradiometer.run.checkpoints import Checkpoint, load_latest, save
from gradiometer.run.configuration import Configuration
from gradiometer.run.folder import RunFolder, versions
from gradiometer.run.problem import configuration_of, problem_of
from gradiometer.run.ranks import RankLost, Ranks, together
from gradiometer.run.reader import Run
from gradiometer.run.recorder import Recorder
from gradiometer.train.policies import ForkedTraining, policies_of
from gradiometer.train.restoring import capture, fitting, restore
from gradiometer.train.training import COOL, END, GO_ON, STEP, Training, name_of_run


def follow(training: Training) -> Run:
    """Do this process's share of every step, from the checkpoint that rank 0 starts from to its
    end.

    Nothing is written here. Only rank 0 handles a request to stop, and then ends all processes.

    Raises:
        RankLost: Another process has ended.
    """
    with asked_to_stop():
        folder = RunFolder.open(training.ranks.told_path())
        load_latest(
            folder, use=lambda checkpoint: restore(training, checkpoint.tensors, checkpoint.state)
        )
        while True:
            following, told = training.ranks.told(END, False)
            if following == END:
                return Run.open(folder.path)
            if following in (GO_ON, COOL):
                # what forks have cost is known to rank 0, which alone asks for them
                training.decide(told if following == COOL else None, forked=False)
                continue
            batch = training.batch()
            training.backward(batch, bool(told))
            # the cooling looks at the same parameters everywhere
            training.update()


def dismiss(ranks: Ranks) -> None:
    """End the other processes, after the last step or after an error here."""
    # After an error there may be nobody left to tell.
    with suppress(RankLost):
        ranks.told(END, False)


# Printed by the first Ctrl-C, since the step that is being made may take for ever.
STOPPING = b"\nstopping after this step; Ctrl-C again stops at once\n"


@contextmanager
def asked_to_stop() -> Iterator[threading.Event]:
    """An event that Ctrl-C, SIGTERM or a closed terminal (SIGHUP) sets. A second Ctrl-C stops at
    once.

    A signal that the process was started to ignore, as by `nohup` or in the background of a script,
    is still ignored.
    """
    asked = threading.Event()

    def ask(number: int, frame: FrameType | None) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()
        if number == signal.SIGINT:
            # Not `print`: the signal may have come within one. A closed stream is no reason to fail.
            with suppress(OSError):
                os.write(2, STOPPING)

    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    numbers = {signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)}
    heeded = [number for number in numbers if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, ask) for number in heeded}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@runtime_checkable
class Watcher(Protocol):
    """Shows a run while it trains. Its cost counts as the cost of measuring. A class of
    this one does nothing at the start and with warnings, unless it defines them."""

    def begin(self, training: Training, recorder: Recorder, folder: RunFolder) -> None:
        """The run is about to start or to be resumed."""
        return

    def warn(self, text: str) -> None:
        """Show a warning of one sentence."""
        return

    def update(self, training: Training, recorder: Recorder, loss: float) -> None:
        """A step was made."""


def train(
    problem: Problem,
    configuration: Configuration,
    out: Path,
    watcher: Watcher | None = None,
    gauges: GaugesAsked | None = None,
    name: str | None = None,
    until: int | None = None,
) -> Run:
    """Train a problem from its start, into a new run folder below `out`.

    Args:
        problem: The problem.
        configuration: How it is trained and measured.
        out: Folder of the runs.
        watcher: Shows the run while it trains.
        gauges: Names and gauges of your own, such as ["noise", MyGauge()], instead of the
            configuration's names.
        name: Name of the run, to which a number is added. Default: problem and model.
        until: Step before which the training stops, with a checkpoint; `resume` continues it.
            Default: its end.

    Raises:
        Diverged: The loss or the gradient stopped being finite, or the loss exploded. Nothing was
            updated by it.
        Interrupted: It was asked to stop, or the disk is full; the run can be resumed.
        BadArgument: The configuration does not fit the problem.
    """
    asked = Asked.of(configuration.measured if gauges is None else gauges)
    asked.refuse_under(configuration.optimizer)
    configuration = msgspec.structs.replace(configuration, gauges=",".join(asked.names))
    with threads(configuration.threads), together() as ranks:
        made, budget = asked.made(configuration), Budget(configuration.budget)
        training = Training(problem, configuration, budget, ranks, gauges=made)
        if not ranks.first:
            return follow(training)
        manifest = {
            "configuration": configuration.to_dict(),
            "versions": versions(),
            "gauges": asked.manifest(),
        }
        name = name_of_run(problem) if name is None else name
        folder = RunFolder.create(out, name, manifest | training.facts())
        return Trainer(training, folder, watcher).go(until)


def resume(
    path: Path,
    watcher: Watcher | None = None,
    gauges: Sequence[Gauge] = (),
    problem: Problem | None = None,
    until: int | None = None,
) -> Run:
    """Continue a run from its last complete checkpoint. It ends with the same bits as if it had
    never stopped.

    Args:
        path: The run's folder.
        watcher: Shows the run while it trains.
        gauges: The gauges of your own that it was measured with.
        problem: The problem of the run, if it is loaded already.
        until: Step before which the training stops again. Default: its end.

    Raises:
        BadArgument: It has ended, or its data have changed.
        RunNotFound: It is not a run.
    """
    run = Run.open(path, gauges=gauges)
    if run.status in ("finished", "diverged"):
        raise BadArgument(
            f"`{path}` has {run.status} at step {run.steps:,}: there is nothing to resume. "
            f"Write its page with: gradiometer show {shlex.quote(str(path))}"
        )
    made, missing = recorded_gauges(run)
    if missing:
        classes = ", ".join(filter(None, missing.values()))
        way_out = f"import {classes} and give it" if classes else "install the package that adds it"
        raise BadArgument(f"`gauges` lacks {', '.join(missing)}: {way_out}.")
    problem = problem_of(run, "resume") if problem is None else problem
    with threads(run.configuration.threads), together() as ranks:
        budget = Budget(run.configuration.budget)
        training = Training(problem, configuration_of(run, "resume"), budget, ranks, gauges=made)
        if not ranks.first:
            return follow(training)
        loop = Trainer(training, RunFolder.open(path), watcher)
        loop.restore_latest(run)
        return loop.go(until)


class Trainer:
    """A training with its recorder and checkpoints, from its present step to its end."""

    def __init__(self, training: Training, folder: RunFolder, watcher: Watcher | None) -> None:
        configuration = training.configuration
        self.training = training
        self.folder = folder
        self.watcher = watcher
        self.watch = watch_of(training, self._tell)
        self.recorder = Recorder(
            folder,
            training.gauges,
            budget=training.budget,
            every=configuration.every,
            mode=training.mode,
            elsewhere=self.watch.gauges.elsewhere,
        )
        # The losses of the steps before a resume.
        self.losses: list[float] = []
        # True if the run has the facts of triage from before a resume.
        self.has_facts = False
        self.collector = collector_of(training, folder)
        self.policies = policies_of(training)
        self.host = ForkedTraining(training, folder.path, self.recorder)
        self.saved_at = time.monotonic()
        self.lasting = configuration.lasting_checkpoints

    @bounded
    def go(self, until: int | None = None) -> Run:
        """Train to the end, or until a step."""
        last = self.training.steps if until is None else min(until, self.training.steps)
        stop_asked = threading.Event()
        try:
            with asked_to_stop() as asked, self.watch:
                stop_asked = asked
                self._begin(asked)
                while self.training.step < last:
                    self._decide(asked)
                    self._step()
                    if asked.is_set():
                        self._stop()
            if last == self.training.steps:
                self.training.end_at_average()
                # Before the checkpoint: a run that is killed in between is examined when it is
                # resumed.
                self._examine_endpoint()
                self._checkpoint()
                self.recorder.event("finished", self.training.step)
            else:
                self._pause()
            dismiss(self.training.ranks)
        except RankLost as error:
            # The broken step is not kept; the last checkpoint counts.
            self.recorder.event("interrupted", self.training.step, reason=str(error))
            raise Interrupted(
                f"{error}; continue from the last checkpoint, with any number of processes, with: "
                f"gradiometer resume {shlex.quote(str(self.folder.path))}"
            ) from error
        except KeyboardInterrupt as error:
            dismiss(self.training.ranks)
            if not stop_asked.is_set():
                raise
            raise Interrupted(
                f"stopped within step {self.training.step:,} of {self.training.steps:,}; continue "
                "from the last checkpoint with: gradiometer resume "
                f"{shlex.quote(str(self.folder.path))}"
            ) from error
        except BaseException:
            dismiss(self.training.ranks)
            raise
        finally:
            self.recorder.close()
        return Run.reopen(self.folder.path, gauges=self.training.gauges)

    def restore_latest(self, run: Run) -> None:
        """Restore the last complete checkpoint. Without one, the run starts again, with the same
        bits."""
        _, warnings = load_latest(self.folder, use=self._use, put_aside=True)
        self.recorder.resume(self.training.step)
        steps, losses = run.losses
        self.losses = losses[steps < self.training.step].tolist()
        self.has_facts = any(event["event"] == FACTS for event in run.events)
        self.policies.remember(run.events, self.training.step)
        for warning in warnings:
            self.recorder.event("warning", self.training.step, text=warning)
            self._tell(warning)

    def _use(self, checkpoint: Checkpoint) -> None:
        restore(self.training, checkpoint.tensors, checkpoint.state)
        with fitting():
            self.recorder.load_state_dict(checkpoint.state["recorder"])

    def _begin(self, asked: Event) -> None:
        if self.training.step == 0:
            self.recorder.event("started", 0)
        self.watch.begin(self.recorder, self.training.step, self.losses, has_facts=self.has_facts)
        # The other processes start from it, and a run that is killed soon can be resumed.
        if self.training.step == 0:
            self._checkpoint()
        if self.watcher:
            self.watcher.begin(self.training, self.recorder, self.folder)
        self._check_edge(asked)
        # All processes start from the latest checkpoint of this folder.
        self.training.ranks.told_path(str(self.folder.path.resolve()))

    def _check_edge(self, asked: Event) -> None:
        """Warn before the first step if the learning rate is above the edge of stability."""
        training, c = self.training, self.training.configuration
        if training.step or not (c.check_edge and c.budget and c.optimizer == "sgd"):
            return
        try:
            with training.budget.spending("check of the edge", fixed=True), heeding(asked.is_set):
                warning = training.edge_warning()
        except StopAsked:
            self._stop()
        except GradiometerError as error:
            warning = f"the learning rate was not compared with the edge of stability: {error}"
        if warning is not None:
            self._warn(warning)

    def _warn(self, text: str) -> None:
        """Write a warning into the run, which shows it."""
        self.recorder.event("warning", self.training.step, text=text)

    def _tell(self, text: str) -> None:
        if self.watcher:
            self.watcher.warn(text)

    def _decide(self, asked: Event) -> None:
        """Let the policies decide what there is to decide before this step."""
        try:
            with heeding(asked.is_set):
                self.policies.ask(self.host)
        except StopAsked:
            self._stop()

    def _step(self) -> None:
        training, watch = self.training, self.watch
        batch = training.batch()
        # The other processes make their share of this step, and of its measurement.
        training.ranks.told(STEP, watch.measuring)
        loss = training.backward(batch, watch.measuring)
        reason = training.divergence(loss)
        if reason is not None:
            self._end_divergence(reason)
        # Late in a run settings are seldom read, and the rate that it ends with belongs on record.
        if training.step == training.steps - 1:
            watch.note_settings()
        watch.step(loss, batch)
        for event in training.update():
            self.recorder.event(**event)
        if self.collector and (snapshot := self.collector.after(training.step - 1, training.model)):
            self.recorder.event("snapshot", training.step, number=snapshot.number)
        if training.evaluation_due():
            with training.at_average():
                evaluation = evaluate(
                    training.problem, training.model, training.device, training.configuration.level
                )
            if evaluation.estimates:
                watch.record_evaluation(evaluation)
        is_due = time.monotonic() - self.saved_at >= training.configuration.checkpoint_seconds
        if is_due or training.step in self.lasting:
            self._checkpoint()
        if self.watcher:
            self.watcher.update(training, self.recorder, loss)

    def _examine_endpoint(self) -> None:
        """Examine the endpoint: a saddle, dead units, a symmetry. A failure is a warning and does
        not end the run."""
        configuration, training = self.training.configuration, self.training
        if not (configuration.budget and configuration.check_endpoint):
            return
        if self.losses:  # it was resumed, and may have been examined before it was killed
            self.watch.state_dict()  # which writes everything
            run = Run.reopen(self.folder.path)
            if any(
                event["event"] == ENDPOINT and event["step"] == training.step
                for event in run.events
            ):
                return
            series = run.series(Trajectory.name)
        else:
            series = self.recorder.recent(Trajectory.name)
        if series is None:
            return
        try:
            with training.budget.spending("check of the endpoint", fixed=True), user_code("loss"):
                seen = training.endpoint(series)
        except GradiometerError as error:
            self._warn(f"the endpoint was not examined: {error}")
            return
        self.recorder.event(ENDPOINT, training.step, **seen.to_dict())

    def _checkpoint(self) -> None:
        recorded = self.watch.state_dict()["recorder"]
        tensors, values = capture(self.training)
        values["recorder"] = recorded
        keep, lasting = self.training.configuration.keep_checkpoints, self.lasting
        save(self.folder, self.training.step, tensors, values, keep=keep, lasting=lasting)
        self.saved_at = time.monotonic()

    def _pause(self) -> None:
        self._checkpoint()
        self.recorder.event("interrupted", self.training.step)

    def _stop(self) -> NoReturn:
        """Always raises Interrupted."""
        self._pause()
        raise Interrupted(
            f"stopped at step {self.training.step:,} of {self.training.steps:,}, nothing is lost; "
            f"continue with: gradiometer resume {shlex.quote(str(self.folder.path))}"
        )

    def _end_divergence(self, reason: str) -> NoReturn:
        """Always raises Diverged. The checkpoint before is the last good state."""
        training = self.training
        # write the losses that wait: they show how it came
        self.watch.state_dict()
        self.recorder.event(
            "diverged", training.step, reason=reason, learning_rate=training.learning_rate
        )
        checkpoint, _ = load_latest(self.folder)
        kept = f"step {checkpoint.step:,}" if checkpoint else "the start"
        advice = "try a smaller --lr"
        if training.step == 0:
            # No rate has acted yet.
            advice = "look at the examples and at how the model starts"
        elif reason.endswith("nan"):
            # The cause of a NaN is as often in the examples as in the rate.
            advice += ", or look for an example that is not finite"
        raise Diverged(
            f"training diverged at step {training.step:,} with learning rate "
            f"{training.learning_rate:g}: {reason}; the update was not applied, and the last good "
            f"state ({kept}) is kept in {self.folder.path}; {advice}; the cause: gradiometer fork "
            f"{shlex.quote(str(self.folder.path))} --spike {training.step}"
        )


def collector_of(training: Training, folder: RunFolder) -> SnapshotCollector | None:
    """The collector that writes this training's snapshots into its run folder, or None without
    snapshots."""
    if training.cycle is None:
        return None
    prepare = None
    if tracking_layers(training.model):
        size = training.configuration.batch_size
        prepare = partial(refresh, training.problem, training.data, size=size)
    return SnapshotCollector(training.cycle, partial(save_snapshot, folder.snapshots_path), prepare)


def watch_of(training: Training, tell: Callable[[str], object]) -> Watch:
    """A watch of this training, in the run that the training makes.

    Args:
        training: The training.
        tell: Takes the text of every warning.
    """
    configuration = training.configuration
    examples = Probe(training.data)
    subject = Subject(
        objective=training.objective,
        called=training.model,
        optimizers=[training.optimizer],
        batches=Batches(
            training.sampling, examples if configuration.probe else None, judges=examples
        ),
        budget=training.budget,
        source=OwnTraining((lambda: training.spread) if training.shared else None),
        tell=tell,
        seed=configuration.seed,
        origin=training.origin,
    )
    return Watch(
        subject,
        out=Path(),
        name=training.problem.name,
        asked={
            "every": configuration.every,
            "parts": configuration.parts,
            "level": configuration.level,
        },
        gauges=Asked(tuple(gauge.name for gauge in training.gauges), training.gauges),
        to=(),
        announcements=Announcements(page=False, quiet=True),
    )
