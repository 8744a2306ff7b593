"""The state of a run at any step: from the nearest checkpoint before it, by making the same steps
again."""

import math

import numpy as np

from gradiometer.errors import BadArgument, Diverged
from gradiometer.jobs.threads import threads
from gradiometer.problems.problem import Problem
from gradiometer.randomness import untouched_randomness
from gradiometer.run.budget import Budget
from gradiometer.run.checkpoints import Checkpoint, load_latest
from gradiometer.run.problem import configuration_of, problem_of
from gradiometer.run.reader import Run
from gradiometer.train.policies.chosen import policies_of
from gradiometer.train.restoring.state import capture, restore
from gradiometer.train.training import Training


def training_of(run: Run, verb: str, problem: Problem | None = None) -> Training:
    """The training of a run before its first step, which measures nothing.

    Args:
        run: The run.
        verb: The command that needs it, for its message about a watched run.
        problem: The problem of the run, if it is loaded already.
    """
    configuration = configuration_of(run, verb)
    return Training(problem or problem_of(run, verb), configuration, Budget(0.0), gauges=())


def state_at(run: Run, step: int, verb: str, problem: Problem | None = None) -> Checkpoint:
    """The state of a run after `step` updates. Nothing is written, and all random states are
    unchanged.

    The steps from the nearest checkpoint on, or from the start, are made again. They have the same
    bits on the same machine; each repeated loss is compared with the recorded one, and a difference
    becomes a warning.

    Args:
        run: The run, finished or under way.
        step: Number of updates, from 0 to the last step on record.
        verb: The command that needs the state, for its message about a watched run.
        problem: The problem of the run, if it is loaded already.

    Raises:
        BadArgument: There is no such step, or the run is a watched one, or its data have changed.
        Diverged: A repeated step diverged.
    """
    configuration_of(run, verb)
    if not 0 <= step <= run.steps:
        raise BadArgument(
            f"`step` must be between 0 and {run.steps:,}, the last step on record, got {step:,}."
        )
    checkpoint, warnings = load_latest(run.folder, up_to=step)
    if checkpoint is not None and checkpoint.step == step:
        values = {name: value for name, value in checkpoint.state.items() if name != "recorder"}
        return Checkpoint(step, checkpoint.tensors, values, warnings=tuple(warnings))
    check_repeatable(run)
    with threads(run.configuration.threads), untouched_randomness(0, []):
        training = training_of(run, verb, problem)
        warnings += _repeat_steps(training, run, checkpoint, step)
        return Checkpoint(step, *capture(training), warnings=tuple(warnings))


def check_repeatable(run: Run) -> None:
    """Raise if steps of the run cannot be made again, since a guard of version 0.2 watched them.

    Raises:
        BadArgument: It did.
    """
    if "guard" in run.manifest["configuration"]:
        raise BadArgument(
            f"`{run.path}` was trained with `guard`, which only version 0.2 has: its steps cannot "
            "be made again. Use a step that has a checkpoint, or train it anew."
        )


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
    policies = {policy.event: policy for policy in policies_of(training)}
    decisions = {
        (event["event"], event["step"]): event for event in run.events if event["event"] in policies
    }
    while training.step < step:
        for name, policy in policies.items():
            decision = decisions.get((name, training.step))
            if decision is not None:
                policy.repeat(training, decision)
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
