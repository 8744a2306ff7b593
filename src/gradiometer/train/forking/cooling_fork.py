"""The forks of `--cool auto`: two branches to the end of the run decide if the rate goes to zero from here."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import msgspec

from gradiometer.forks.branch import BranchResult
from gradiometer.forks.recorded.growing import grow
from gradiometer.forks.recorded.plan import Plan
from gradiometer.forks.recorded.record import ForkRecord
from gradiometer.forks.recorded.words import outcome
from gradiometer.jobs.choice import opened
from gradiometer.run.folder import RunFolder
from gradiometer.train.cooling import Cooling
from gradiometer.train.forking.order import examples_before
from gradiometer.train.forking.run_state import RunSource
from gradiometer.train.restoring.replay import RunState
from gradiometer.train.restoring.state import capture
from gradiometer.train.training import Training

READOUT = "train_loss"


@dataclass(frozen=True)
class Decision:
    """What becomes of the rate.

    Args:
        begins: Step from which it goes to zero; the number of all steps if it stays to the end; None to ask again.
        fork: Name of the fork that decided; None if the budget does not pay for one.
        outcome: What the fork has shown, in words.
    """

    begins: int | None
    fork: str | None = None
    outcome: str = ""


class Stopped(Exception):
    """Raised between two branches if the run was asked to stop."""


def decided(training: Training, cooling: Cooling, folder: RunFolder, is_stopped: Callable[[], bool]) -> Decision:
    """Decide before the present step of a training. Its state and all random states are afterwards as before.

    A fork that was stopped continues from its finished branches.

    Args:
        training: The training.
        cooling: Its cooling, which asks for a decision.
        folder: The run, in which the fork is kept.
        is_stopped: True if the run was asked to stop.

    Raises:
        Stopped: The run was asked to stop, and the branches that are finished are kept.
        GradiometerError: A branch failed.
    """
    step = training.step
    if not cooling.pays(step):
        return Decision(step)
    record = _forked(training, cooling, folder, is_stopped)
    (effect,) = record.fork.effects(READOUT, level=cooling.two_sided)
    if step in cooling.marks:
        begins = step if effect.verdict != "better" else training.steps if step == cooling.marks[-1] else None
    else:
        begins = step if effect.verdict in ("worse", "diverged") else None
    return Decision(begins, record.name, f"{effect.alternative} {outcome(effect)}")


def _forked(training: Training, cooling: Cooling, folder: RunFolder, is_stopped: Callable[[], bool]) -> ForkRecord:
    """The finished fork at the present step."""
    configuration, step = msgspec.structs.replace(training.configuration, cool="off"), training.step
    before, until, left = (examples_before(training.order, at) for at in (step, cooling.stop(step), training.steps))
    seed = configuration.seed
    plan = Plan(step, (cooling.hold(step),), cooling.replicates(step), until - before, seed=seed, left=left - before)

    def source() -> RunSource:
        tensors, values = capture(training)
        state = {name: tensor for name, tensor in tensors.items() if not name.startswith("cooling.")}
        problem = replace(training.problem, test=None)  # the loss on Train decides
        return RunSource(configuration, RunState(step, state, values), seed=seed, problem=problem)

    return finished_fork(folder, plan, source, is_stopped)


def finished_fork(
    folder: RunFolder, plan: Plan, source: Callable[[], RunSource], is_stopped: Callable[[], bool]
) -> ForkRecord:
    """The fork of a plan in the folder of a run that trains: its branches are trained now, but for finished ones.

    Args:
        folder: The run.
        plan: What is tried.
        source: Makes the state that the branches begin at. It is not called if all of them are finished.
        is_stopped: True if the run was asked to stop.

    Raises:
        Stopped: It was, and the branches that are finished are kept.
        GradiometerError: A branch failed.
    """
    record = ForkRecord.keep(folder.path, plan)
    if record.finished:
        return record
    made = source()

    def stop_here(*_: BranchResult | int) -> None:
        if is_stopped():
            raise Stopped

    with opened("here") as pool:
        grow(made, plan, pool, ledger=record.ledger(), progress=stop_here, threads=made.configuration.threads)
    return record.finish()
