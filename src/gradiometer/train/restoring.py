"""A run at any of its steps: its state as named tensors and plain values, the steps made again up
to it, and the training there as a loop (`loop_at`)."""

import math
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gradiometer.arguments import check_whole
from gradiometer.errors import BadArgument, Diverged, GradiometerError, RunDamaged
from gradiometer.jobs.job import threads
from gradiometer.loop.loop import Loop
from gradiometer.problems.problem import Problem
from gradiometer.randomness import untouched_randomness
from gradiometer.run.budget import Budget
from gradiometer.run.checkpoints import Checkpoint, checkpoint_steps, load_latest
from gradiometer.run.configuration import Configuration
from gradiometer.run.problem import configuration_of, problem_for, problem_of
from gradiometer.run.reader import Run
from gradiometer.train.forking.own_loop import RunData, keep_cooling, loop_of
from gradiometer.train.policies import ForkedTraining, policies_of
from gradiometer.train.training import Training
from gradiometer.verdict.triage.signs import Signs

Tensors = dict[str, Tensor]
Values = dict[str, Any]


def capture(training: Training) -> tuple[Tensors, Values]:
    """Everything that the next step depends on: model, optimizer, schedule, place in the data,
    random states."""
    tensors = {f"model.{name}": value for name, value in training.model.state_dict().items()}
    optimizer = training.optimizer.state_dict()
    for index, state in optimizer["state"].items():
        tensors |= {
            f"optimizer.{index}.{name}": value
            for name, value in state.items()
            if isinstance(value, Tensor)
        }
    if training.cooling is not None:
        tensors |= {f"cooling.{name}": value for name, value in training.cooling.tensors().items()}
    random_tensors, random_values = random_states(training.device)
    values = {
        "step": training.step,
        "first_loss": training.first_loss,
        "param_groups": optimizer["param_groups"],
        "schedule": repr(training.schedule),
        "scheduler": {
            name: value
            for name, value in training.scheduler.state_dict().items()
            if name != "lr_lambdas"
        },
        "random": random_values,
        "cooling": training.cooling.values() if training.cooling is not None else None,
    }
    if training.origin is not None:
        points, values["origin"] = training.origin.state_dict()
        tensors |= {f"origin.{name}": point for name, point in points.items()}
    return tensors | random_tensors, values


def restore(training: Training, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
    """Put a captured state back.

    Raises:
        RunDamaged: It was made under another schedule, or it does not fit the training. The state
            is then undefined.
    """
    with fitting():
        schedule = repr(training.schedule)
        made_under = values.get("schedule", schedule)
        if made_under != schedule:
            raise RunDamaged(
                f"`schedule` of the run is {schedule}, but its checkpoint was made under "
                f"{made_under}: put run.toml back as it was, or start a new run."
            )
        training.model.load_state_dict(_below("model", tensors))
        states: dict[int, dict[str, Tensor]] = {}
        for name, value in _below("optimizer", tensors).items():
            index, _, key = name.partition(".")
            states.setdefault(int(index), {})[key] = value
        training.optimizer.load_state_dict(
            {"state": states, "param_groups": values["param_groups"]}
        )
        # The schedule's function is no value. With None, torch keeps the present one.
        training.scheduler.load_state_dict({**values["scheduler"], "lr_lambdas": [None]})
        if training.cooling is not None:
            training.cooling.restore(_below("cooling", tensors), values["cooling"])
        training.step = values["step"]
        training.first_loss = values["first_loss"]
        # else it starts at the present parameters
        if training.origin is not None and "origin" in values:
            points = {
                name: point.to(training.device) for name, point in _below("origin", tensors).items()
            }
            training.origin.load_state_dict(points, values["origin"])
        set_random_states(training.device, tensors, values["random"])


@contextmanager
def fitting() -> Iterator[None]:
    """Raise RunDamaged if a state inside has other names, types or shapes than the training."""
    try:
        yield
    except GradiometerError:
        raise
    except (
        AttributeError,
        LookupError,
        TypeError,
        ValueError,
        ArithmeticError,
        RuntimeError,
    ) as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"[:200].rstrip(".")
        raise RunDamaged(
            f"its state does not fit the training that run.toml describes ({reason})."
        ) from error


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> Tensors:
    return {
        name.removeprefix(f"{prefix}."): t
        for name, t in tensors.items()
        if name.startswith(f"{prefix}.")
    }


def random_states(device: torch.device) -> tuple[Tensors, Values]:
    """Torch's generators on the CPU and the device, Python's, and NumPy's global one."""
    tensors = {"random.torch": torch.get_rng_state()}
    if device.type != "cpu":
        tensors["random.device"] = torch.get_device_module(device.type).get_rng_state(device)
    version, words, gauss = random.getstate()
    numpy_state = np.random.get_state(legacy=False)  # noqa: NPY002 (the global one is what models use)
    tensors["random.python"] = torch.tensor(words, dtype=torch.int64)
    tensors["random.numpy"] = torch.from_numpy(numpy_state["state"]["key"].astype(np.int64))
    values = {
        "python": {"version": version, "gauss": gauss},
        "numpy": {
            "pos": numpy_state["state"]["pos"],
            "gauss": [numpy_state["has_gauss"], numpy_state["gauss"]],
        },
    }
    return tensors, values


def set_random_states(
    device: torch.device, tensors: Mapping[str, Tensor], values: Mapping[str, Any]
) -> None:
    """Put the random states back, from the tensors of `capture` and from "random" among
    its values."""
    torch.set_rng_state(tensors["random.torch"])
    if device.type != "cpu":
        torch.get_device_module(device.type).set_rng_state(tensors["random.device"], device)
    words = tuple(tensors["random.python"].tolist())
    random.setstate((values["python"]["version"], words, values["python"]["gauss"]))
    key = tensors["random.numpy"].numpy().astype(np.uint32)
    np.random.set_state(("MT19937", key, values["numpy"]["pos"], *values["numpy"]["gauss"]))  # noqa: NPY002


def training_of(run: Run, problem: Problem | None) -> Training:
    """The training of a run before its first step, which measures nothing.

    Args:
        run: The run.
        problem: The problem of the run, if it is loaded already.
    """
    problem = problem or problem_of(run, "fork")
    return Training(problem, configuration_of(run, "fork"), Budget(0.0), gauges=())


def state_at(run: Run, step: int, problem: Problem | None = None) -> Checkpoint:
    """The state of a run after `step` updates. Nothing is written, and all random states are
    unchanged.

    The steps from the nearest checkpoint on, or from the start, are made again. They have the same
    bits on the same machine; each repeated loss is compared with the recorded one, and a difference
    becomes a warning.

    Args:
        run: The run, finished or under way.
        step: Number of updates, from 0 to the last step on record.
        problem: The problem of the run, if it is loaded already.

    Raises:
        Diverged: A repeated step diverged.
    """
    checkpoint, warnings = load_latest(run, up_to=step)
    if checkpoint is not None and checkpoint.step == step:
        values = {name: value for name, value in checkpoint.state.items() if name != "recorder"}
        return Checkpoint(step, checkpoint.tensors, values, warnings=tuple(warnings))
    with threads(run.configuration.threads), untouched_randomness(0, []):
        training = training_of(run, problem)
        warnings += _repeat_steps(training, run, checkpoint, step)
        return Checkpoint(step, *capture(training), warnings=tuple(warnings))


def _repeat_steps(
    training: Training, run: Run, checkpoint: Checkpoint | None, step: int
) -> list[str]:
    """Make the steps from a checkpoint, or from the start, up to `step`. Returns a warning if a
    loss differs."""
    if checkpoint is not None:
        restore(training, checkpoint.tensors, checkpoint.state)
    steps, losses = run.losses
    recorded = dict(zip(steps.tolist(), losses.tolist(), strict=True))
    first = training.step
    worst = 0.0
    host = ForkedTraining(training, run.path)
    repeat_decisions = policies_of(training).repeating(run.events)
    while training.step < step:
        repeat_decisions(host)
        batch = training.batch()
        loss = training.backward(batch)
        reason = training.divergence(loss)
        if reason is not None:
            raise Diverged(
                f"step {training.step:,} of `{run.path}` diverged when it was repeated: {reason}."
            )
        known = recorded.get(training.step, loss)
        if loss != known:
            worst = max(worst, abs(loss - known) / max(abs(known), np.finfo(float).tiny))
        training.update()
    if not worst or math.isnan(worst):
        return []
    why = (
        "the run had several processes"
        if run.manifest.get("ranks", 1) > 1
        else "another machine or another torch"
    )
    return [
        f"steps {first:,} to {step:,} were repeated with losses that differ from the recorded ones "
        f"by up to {worst:.1g} of them ({why}): the state at step {step:,} is close to that of the "
        "run, and not the same."
    ]


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
    if isinstance(at, int) and not 0 <= at <= run.steps:
        raise BadArgument(
            f"`at` must be between 0 and {run.steps:,}, the last step on record, got {at:,}."
        )
    check_whole("at", at, 0)
    if at == last:
        raise BadArgument(
            f"`at` {at:,} is the end of the run, where nothing is left: give an earlier step."
        )
    with untouched_randomness(0, []):
        training = training_of(run, problem)
    loop = _loop_of(training, at, lambda: state_at(run, at, training.problem))
    loop.high_until = Signs.of(run).high_until
    return loop


def default_step(run: Run) -> int:
    """The step to fork from: the middle of a finished run, and the newest checkpoint of any other.

    Raises:
        BadArgument: The run has no checkpoint yet.
    """
    if run.status == "finished":
        return run.steps // 2
    kept = checkpoint_steps(run)
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
    with untouched_randomness(0, []):
        problem = problem_once(configuration)
        training = Training(problem, configuration, Budget(0.0), gauges=())
    loop = _loop_of(training, state.step, lambda: state)
    loop.data.see_own(own_until)
    loop.seed = seed
    return loop


# A process that trains many branches of a run reads its data once.
problem_once = lru_cache(maxsize=1)(problem_for)
