"""`loop_at`: the training of a run at one of its steps, as a loop."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

from gradiometer.errors import BadArgument
from gradiometer.loop.loop import Loop
from gradiometer.problems.problem import Problem
from gradiometer.problems.registry import load
from gradiometer.randomness import untouched_randomness
from gradiometer.run.budget import Budget
from gradiometer.run.checkpoints import Checkpoint, checkpoint_steps
from gradiometer.run.configuration import Configuration
from gradiometer.run.problem import configuration_of
from gradiometer.run.reader import Run
from gradiometer.train.forking.own_loop import RunData, keep_cooling, loop_of
from gradiometer.train.restoring.replay import state_at, training_of
from gradiometer.train.restoring.state import restore, set_random_states
from gradiometer.train.training import Training
from gradiometer.verdict.triage.signs import Signs


def loop_at(run: Run, step: int | None = None, *, problem: Problem | None = None) -> Loop:
    """The training of a run after some updates, to be forked. Nothing is written.

    The steps from the nearest checkpoint on are made again when the loop is first copied. A branch
    follows the schedule of the run, with the way to zero that `cool` has begun; `cool` decides
    nothing more.

    Args:
        run: The run, finished or under way.
        step: Number of updates. Default: `default_step`.
        problem: The problem of the run, if it is loaded already.

    Raises:
        BadArgument: There is no such step, nothing is left there, the run is a watched one, or its
            data have changed.

    Example:
        >>> from pathlib import Path
        >>> from gradiometer import Configuration
        >>> from gradiometer.loop import fork
        >>> from gradiometer.problems import load
        >>> from gradiometer.train import loop_at, train
        >>> configuration = Configuration(problem="quadratic", batch_size=10, epochs=1, budget=0.0)
        >>> run = train(load("quadratic"), configuration, Path("runs"))
        >>> found = fork(loop_at(run), ["rate 2x"], horizon="20 updates", replicates=2, out=run.path)
        >>> found.step, [effect.alternative for effect in found.effects()]
        (100, ['rate 2x'])
    """
    configuration_of(run, "fork")
    at, last = default_step(run) if step is None else step, run.manifest.get("steps", run.steps)
    if not 0 <= at <= run.steps:
        raise BadArgument(
            f"`at` must be between 0 and {run.steps:,}, the last step on record, got {at:,}."
        )
    if at == last:
        raise BadArgument(
            f"`at` {at:,} is the end of the run, where nothing is left: give an earlier step."
        )
    with untouched_randomness(0, []):
        training = training_of(run, "fork", problem)
    loop = _loop_of(training, at, lambda: state_at(run, at, "fork", training.problem))
    loop.high_until = Signs.of(run).high_until
    return loop


def default_step(run: Run) -> int:
    """The step to fork from: the middle of a finished run, and the newest checkpoint of any other.

    Raises:
        BadArgument: The run has no checkpoint yet.
    """
    if run.status == "finished":
        return run.steps // 2
    kept = checkpoint_steps(run.folder)
    if not kept:
        raise BadArgument(
            f"`{run.path}` has no checkpoint yet: wait for one, or fork from the start, with at=0."
        )
    return kept[0]


class RunPlace:
    """A step of a run, which a loop comes from: its training is brought there when it is first
    needed.

    If branches see the run's own batches, replicate 0 has the run's own random draws, too.

    Args:
        training: The training before its first step.
        data: Its data from the step on.
        find: Finds the state at the step.
    """

    def __init__(self, training: Training, data: RunData, find: Callable[[], Checkpoint]) -> None:
        self._training = training
        self._data = data
        self._find = find
        self._state: Checkpoint | None = None

    def bring(self, loop: Loop) -> None:
        """Restore the state, once."""
        if self._state is None:
            self._state = state = self._find()
            with untouched_randomness(0, loop.devices):
                # A restored optimizer keeps the tensors that it is given.
                restore(
                    self._training,
                    {name: tensor.clone() for name, tensor in state.tensors.items()},
                    state.state,
                )
            keep_cooling(self._training.scheduler, self._training.cooling)
            loop.warnings = state.warnings

    def seed(self, replicate: int) -> None:
        """Set the random states of the run, if the replicate has its draws."""
        state = self._state
        if state is not None and replicate == 0 and self._data.own_until > state.step:
            set_random_states(self._training.device, state.tensors, state.state["random"])

    def again(self, loop: Loop) -> tuple[Callable[..., Loop], tuple[Any, ...]]:
        """The data and the model are not sent to another process: they are made there, and the
        state is restored."""
        self.bring(loop)
        return _again, (self._training.configuration, self._state, self._data.own_until, loop.seed)


def _loop_of(training: Training, step: int, find: Callable[[], Checkpoint]) -> Loop:
    loop = loop_of(training, step)
    assert isinstance(loop.data, RunData)
    loop.source = RunPlace(training, loop.data, find)
    return loop


def _again(configuration: Configuration, state: Checkpoint, own_until: int, seed: int) -> Loop:
    """The loop of a run in another process."""
    c = configuration
    with untouched_randomness(0, []):
        training = Training(
            _load_problem(c.problem, c.model, c.data_dir, c.seed), c, Budget(0.0), gauges=()
        )
    loop = _loop_of(training, state.step, lambda: state)
    loop.data.see_own(own_until)
    loop.seed = seed
    return loop


@lru_cache(maxsize=1)
def _load_problem(name: str, model: str | None, data_dir: str | None, seed: int) -> Problem:
    return load(name, model=model, data_dir=data_dir, seed=seed)
