"""The forks of `--cool auto`: two branches to the end of the run decide if the rate goes to zero from here."""

from collections.abc import Callable
from dataclasses import dataclass

from gradiometer.jobs.choice import opened
from gradiometer.loop.branch import BranchResult, Tail
from gradiometer.loop.branches import Fork
from gradiometer.loop.changes.alternative import Alternative
from gradiometer.loop.recorded.growing import train_plan
from gradiometer.loop.recorded.plan import Plan
from gradiometer.loop.recorded.words import outcome
from gradiometer.run.folder import RunFolder
from gradiometer.train.cooling import Cooling
from gradiometer.train.forking.order import examples_before
from gradiometer.train.forking.run_loop import loop_under_way
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
    found = fork_here(
        training, (cooling.hold(step),), cooling.replicates(step), until=cooling.stop(step), folder=folder,
        is_stopped=is_stopped,
    )  # fmt: skip
    (effect,) = found.effects(READOUT, level=cooling.two_sided)
    if step in cooling.marks:
        begins = step if effect.verdict != "better" else training.steps if step == cooling.marks[-1] else None
    else:
        begins = step if effect.verdict in ("worse", "diverged") else None
    return Decision(begins, name_of(found), f"{effect.alternative} {outcome(effect)}")


def fork_here(
    training: Training,
    alternatives: tuple[Alternative, ...],
    replicates: int,
    *,
    until: int,
    tail: Tail = "linear",
    folder: RunFolder,
    is_stopped: Callable[[], bool],
) -> Fork:
    """A fork at the present step of a training, in its folder. Branches that are finished are not trained again.

    Args:
        training: The training.
        alternatives: What is tried.
        replicates: Number of data orders of each branch.
        until: Step at which the branches end.
        tail: How their rate ends.
        folder: The run.
        is_stopped: True if the run was asked to stop.

    Raises:
        Stopped: It was, and the branches that are finished are kept.
        GradiometerError: A branch failed.
    """

    def stop_here(*_: BranchResult | int) -> None:
        if is_stopped():
            raise Stopped

    step, configuration = training.step, training.configuration
    before, end, last = (examples_before(training.order, at) for at in (step, until, training.steps))
    plan = Plan(step, alternatives, replicates, end - before, tail, seed=configuration.seed, left=last - before)
    loop = loop_under_way(training, plan.seed)
    with opened("here") as pool:
        return train_plan(loop, plan, pool, out=folder.path, progress=stop_here, threads=configuration.threads)


def name_of(found: Fork) -> str | None:
    """The number of a fork that is kept, such as 0001."""
    return None if found.path is None else found.path.name
