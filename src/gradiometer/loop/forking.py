"""`fork`: what would have happened, for any training; its branches are trained in a pool, and kept
in a folder."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from gradiometer.arguments import check_number, check_threads, check_whole, folder_of
from gradiometer.errors import BadArgument, bounded
from gradiometer.jobs.choice import opened
from gradiometer.jobs.job import Job
from gradiometer.jobs.pool import Ledger, Pool
from gradiometer.loop.branch import Branch, BranchResult, Tail
from gradiometer.loop.branches import Fork
from gradiometer.loop.changes.alternative import Alternative, GoOn, Skip, Together
from gradiometer.loop.changes.replacements import Custom
from gradiometer.loop.changes.text import alternative_of
from gradiometer.loop.checks import check_trainable
from gradiometer.loop.comparison.racing import (
    REPLICATES,
    Rung,
    Stop,
    race,
    rungs_for,
)
from gradiometer.loop.engine import changed, guarded_copy, train_branch
from gradiometer.loop.horizon import END, Horizon
from gradiometer.loop.loop import Loop
from gradiometer.loop.parts import RateByHand
from gradiometer.loop.recorded.record import ForkRecord, Plan
from gradiometer.randomness import untouched_randomness

# Branches go to the end by default if all of them together make at most this many times the updates
# of the training. In four data orders, three changes cost 8 from the middle, and one change costs 7
# from a tenth on. There four times the rate was 0.2 better after a quarter of what was left of a
# factorisation of ratings, and it diverged later.
AFFORDABLE = 10

# The default if they cost more.
HORIZON = "25%"

# A rate that falls to this share of its highest by the end of the training is not cooled in
# addition: cosines often end at a tenth.
COOLED = 0.11


# Number of updates that are timed for a horizon in seconds.
TIMED = 8


# Called with a result, and the numbers of finished branches and of all planned branches. No more
# branches are trained if it returns False.
Progress = Callable[[BranchResult, int, int], bool | None]


@bounded
def fork(
    loop: Loop,
    alternatives: Sequence[Alternative | str] | Alternative | str,
    *,
    horizon: str | None = None,
    budget: float | None = None,
    replicates: int | None = None,
    tail: Tail | None = None,
    kept: bool = True,
    seed: int = 0,
    pool: str | Pool = "here",
    threads: int = 1,
    out: Path | None = None,
    begin: Callable[[Plan], object] | None = None,
    progress: Progress | None = None,
) -> Fork:
    """Train several continuations of a training, each on the same data, and compare where they end.

    Call it between two updates, in training mode. The training itself is not touched: every branch
    trains copies, and parameters, optimizer, schedulers, hooks, modes and random states are
    afterwards the same, bit for bit. Under DDP call it on rank 0 only, while the other processes
    wait.

    Args:
        loop: The training: one of your own, or that of a run at one of its steps, from
            `gradiometer.train.loop_at`.
        alternatives: One alternative or its text, such as "rate 2x", or a list of them. They are
            compared with going on as it is.
        horizon: Length of a branch: "500 updates", "2 epochs", "64_000 examples", "10 s", or "25%"
            of what is left. "end" trains branches to the end of the training, by its own schedule:
            they show the effect there. Default: "end" if all branches together then make at most 10
            times the updates of the whole training, else "25%"; none if it is not known what is
            left.
        budget: In place of `horizon` and `replicates`: the most that all branches may cost
            together, in units of the whole training. Alternatives race over growing horizons, and
            those that are clearly worse are stopped. One that pays for three branches of each to
            the end of the training answers for the end.
        replicates: Number of data orders, each common to all alternatives. Default: 4.
        tail: How the rate of every branch ends: "linear" to zero over the whole horizon, "half" or
            "third" over its last half or third, "none" not at all, where the comparison leans to
            small rates. Default: "linear"; to the end of the training its own schedule ("none"),
            or "half" if its rate stays high there.
        kept: Whether a training whose rate stays high to its end gets both answers: `Fork.kept`
            has that of branches with the rate kept, as the training has it, beside that of cooled
            ones. It doubles the cost, and is left out if `tail` is given, for a race, and by
            default if both together make more than 10 times the updates of the training.
        seed: Seed of the data orders and of the random draws.
        pool: Where branches are trained: "here", "processes", "processes:4", "ray", or a `Pool`.
            The numbers are the same. In processes nothing in the functions may depend on what they
            change elsewhere.
        threads: Number of threads of torch in every branch.
        out: A folder. The branches are kept in its sub-folder `forks`, and a fork that was stopped
            continues if it is asked again for the same state of model and optimizer, with the same
            functions and data.
        begin: Called with the plan before the first branch; not if all of them were finished
            before.
        progress: Called after every branch with its result, the number of finished branches and of
            all. If it returns False, no more branches are trained.

    Raises:
        BadArgument: An argument cannot be used, an alternative does not fit the training, or the
            data end too early.
        Unsupported: The training cannot be copied.
        UserCodeFailed: The loss, the step, the optimizer or the evaluation raised.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from gradiometer import supervised
        >>> from gradiometer.loop import Loop, fork
        >>> inputs = torch.randn(512, 4, generator=torch.Generator().manual_seed(0))
        >>> model = nn.Sequential(nn.Linear(4, 1), nn.Flatten(0))
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        >>> data, loss = (inputs, inputs.sum(dim=1)), supervised(nn.MSELoss(reduction="none"))
        >>> loop = Loop(model, optimizer, loss=loss, batches=data, batch_size=32)
        >>> found = fork(loop, ["rate 4x"], horizon="20 updates")
        >>> before, after = (found.of(name)[0].readouts["train_loss"].mean for name in found.names)
        >>> after < before
        True
    """
    check_loop(loop)
    if isinstance(alternatives, str | Alternative):
        alternatives = [alternatives]
    if not isinstance(alternatives, list | tuple):
        raise BadArgument(
            "`alternatives` must be a list of at least one alternative, such as ['rate 2x']."
        )
    chosen = tuple(map(alternative_of, alternatives))
    check_asked(horizon, budget, replicates)
    check_whole("seed", seed, 0)
    check_threads(threads)
    out = None if out is None else folder_of("out", out)
    skipped = [skip for one in chosen for skip in _skips(one)]
    asked = horizon
    own_until = loop.data.see_own(max((skip.stop for skip in skipped), default=0))
    rungs, most = _rungs(loop, budget, 1 + len(chosen))
    if rungs:
        length, many = rungs[-1].horizon, rungs[-1].replicates
    else:
        many = REPLICATES if replicates is None else replicates
        if horizon is None:
            horizon = default_horizon(loop, many * (1 + len(chosen)))
        length = all_left(loop) if horizon == END else length_of(loop, horizon, seed)
    to_end = length == loop.left and (bool(rungs) or horizon == END)
    if tail is None:
        tail = _own_tail(loop, length) if to_end else "linear"
        branches = 2 * many * (1 + len(chosen))
        if (
            kept
            and tail == "half"
            and not rungs
            and (asked == END or default_horizon(loop, branches) == END)
        ):
            return _kept_and_cooled(
                loop,
                chosen,
                progress,
                horizon=asked,
                replicates=many,
                seed=seed,
                pool=pool,
                threads=threads,
                out=out,
                begin=begin,
            )
    end = loop.index + length / loop.size
    for skip in skipped:
        if not loop.index <= skip.start < end:
            raise BadArgument(
                f"`skip` {skip.start}:{skip.stop} is not within the branches, which go from step "
                f"{loop.index:,} to {math.floor(end):,}: start them before step {skip.start:,}, or "
                "give a longer horizon."
            )
    digest = "" if out is None or loop.source is not None else loop.digest()
    plan = Plan(
        loop.index,
        chosen,
        many,
        length,
        tail,
        seed,
        loop.left,
        own_until,
        rungs,
        digest,
        budget=most,
    )
    known = None if out is None else ForkRecord.find(out, plan)
    if known is not None and known.finished:
        return replace(known.fork, path=known.path)
    with opened(pool) as where, guarded_copy(loop, seed) as start:
        check_start(start, tail)
        for alternative in chosen:
            # Each change once, without an update: one that does not fit the training is refused.
            with untouched_randomness(0, start.devices), changed(start, alternative, 0, seed=0):
                pass
        if not any(isinstance(one, Custom) for one in chosen):
            _refuse_without_rate(start, length)
        return train_plan(
            start, plan, where, out=out, begin=begin, progress=progress, threads=threads
        )


def _kept_and_cooled(
    loop: Loop, alternatives: Sequence[Alternative], progress: Progress | None, **settings: Any
) -> Fork:
    """The fork whose branches are cooled, beside the same with the rate kept."""
    is_stopped = False

    def following(result: BranchResult, done: int, total: int) -> bool:
        nonlocal is_stopped
        is_stopped = progress is not None and progress(result, done, total) is False
        return not is_stopped

    with opened(settings.pop("pool")) as pool:
        train = partial(fork, loop, alternatives, pool=pool, progress=following, **settings)
        kept = train(tail="none")
        # the cooled one last: the newest fork of a run is the one that answers its advice
        return kept if is_stopped else replace(train(tail="half"), kept=kept)


def _own_tail(loop: Loop, length: int) -> Tail:
    """The tail of branches to the end of a training: its schedule, if that comes down."""
    return "none" if rates_ahead(loop, length)[-1] <= COOLED else "half"


def check_asked(horizon: str | None, budget: float | None, replicates: int | None) -> None:
    """Raise for lengths, budgets and replicates that no training could be forked with."""
    if budget is not None:
        check_number("budget", budget, positive=True)
        for name, value in (("horizon", horizon), ("replicates", replicates)):
            if value is not None:
                raise BadArgument(
                    f"`{name}` is given together with `budget`, which chooses it: leave one of "
                    "them out."
                )
    if replicates is not None:
        check_whole("replicates", replicates, 1)
    if horizon == END:
        if replicates is not None and not replicates >= 2:
            raise BadArgument(
                f"`replicates` must be at least 2 with the horizon 'end', got {replicates}."
            )
    elif horizon is not None:
        Horizon.parse(horizon)


def check_loop(loop: Any) -> None:
    """Raise unless this is a loop."""
    if not isinstance(loop, Loop):
        raise BadArgument(
            f"`loop` must be a Loop, got {type(loop).__name__}: give Loop(model, optimizer, "
            "loss=..., batches=...), or loop_at(run, step)."
        )


def rates_ahead(loop: Loop, length: int) -> list[float]:
    """The highest rate of a parameter group at each update of a branch and after the last one, as a
    share of the highest of the training, by the schedulers of a copy."""
    copy = loop.copy()
    groups = copy.optimizer.param_groups
    rates = [max(float(group["lr"]) for group in groups)]
    for update in range(1, max(length // copy.size, 1) + 1):
        if update % copy.scheduler_every == 0:
            for scheduler in copy.schedulers:
                scheduler.step()
        rates.append(max(float(group["lr"]) for group in groups))
    before = [abs(float(group.get("initial_lr", 0.0))) for group in groups]
    before += [one.highest for one in copy.schedulers if isinstance(one, RateByHand)]
    highest = max(*rates, *before)
    return [rate / highest if highest > 0 else 0.0 for rate in rates]


def _refuse_without_rate(start: Loop, length: int) -> None:
    """Raise if no update of a branch moves the parameters, so that no alternative can differ from
    going on as it is."""
    # a cosine ends at 1e-17 of its initial rate
    if any(rate > 1e-9 for rate in rates_ahead(start, length)[:-1]):
        return
    earlier = "an earlier step"
    if start.high_until is not None:
        earlier = (
            f"a step before {start.high_until:,}, up to which the rate was at least half of "
            "its highest"
        )
    raise BadArgument(
        "`optimizer` has the learning rate 0 in the whole of the branches, from step "
        f"{start.index:,} on, so that no alternative can differ from going on as it is: fork "
        f"from {earlier}."
    )


def check_start(start: Loop, tail: Tail) -> None:
    """Make one update of a loop of one's own: what is wrong with a function shows here, with its
    traceback."""
    if start.source is None:
        check_trainable(start.model)
        train_branch(start, Branch(GoOn(), 0, start.size, tail))


def all_left(loop: Loop) -> int:
    """The length of a branch to the end of the training, in examples."""
    if loop.left is None:
        raise BadArgument(
            "`horizon` is 'end', and what is left is not known: give `left`, such as '4000 "
            "updates'."
        )
    return loop.left


def default_horizon(loop: Loop, branches: int) -> str:
    """The length of so many branches if none is given: to the end of the training if all of them
    together cost at most `AFFORDABLE` trainings."""
    if loop.left is None:
        raise BadArgument(
            "`horizon` is missing: give a length such as '500 updates', or a `budget`."
        )
    in_all = loop.examples + loop.left
    return END if branches * loop.left <= AFFORDABLE * in_all else HORIZON


def length_of(loop: Loop, text: str, seed: int) -> int:
    """The length of a branch in examples. To find that of a time, a few updates are made."""

    def seconds_per_update() -> float:
        most = TIMED * loop.size if loop.left is None else min(TIMED * loop.size, loop.left)
        with guarded_copy(loop, seed) as start:
            timed = train_branch(start, Branch(GoOn(), 0, most))
        return timed.seconds / max(timed.updates, 1)

    length = Horizon.parse(text).examples(
        batch=loop.size, epoch=loop.epoch, left=loop.left, seconds_per_update=seconds_per_update
    )
    if loop.left is not None and length > loop.left:
        raise BadArgument(
            f"`horizon` is {length:,} examples, and {loop.left:,} are left of the training: give a "
            "shorter one, such as 25%."
        )
    return length


def _rungs(loop: Loop, budget: float | None, alternatives: int) -> tuple[tuple[Rung, ...], int]:
    """The stages of a race that a budget in units of the training pays for, and the examples that
    it may train on, 0 for those of its stages."""
    if budget is None:
        return (), 0
    if loop.left is None:
        raise BadArgument(
            "`budget` is in units of the whole training: give `left`, such as left='4000 updates'."
        )
    examples = max(int(budget * (loop.examples + loop.left)), 1)
    # A branch in a race has at least 16 updates. The batches of a run are known to the last
    # example, those of a loop of one's own only by their usual size.
    rungs = rungs_for(
        alternatives,
        examples,
        left=loop.left,
        shortest=min(16 * loop.size, loop.left),
        unit=loop.size if loop.source is None else 1,
    )
    return rungs, examples if rungs[-1].horizon == loop.left else 0


def _skips(alternative: Alternative) -> tuple[Skip, ...]:
    if isinstance(alternative, Together):
        return (*_skips(alternative.first), *_skips(alternative.second))
    return (alternative,) if isinstance(alternative, Skip) else ()


def train_branches(
    pool: Pool,
    loop: Loop,
    branches: Sequence[Branch],
    *,
    ledger: Ledger | None = None,
    threads: int = 1,
) -> Iterator[BranchResult]:
    """Train branches in a pool; their results as they finish.

    Args:
        pool: Where the branches are trained.
        loop: The training.
        branches: The branches.
        ledger: Where finished branches are kept; those that are in it are not trained again.
        threads: Threads of torch in every branch.

    Raises:
        GradiometerError: A branch failed; the others are finished and in the ledger.
    """
    jobs = [Job(branch.name, train_branch, (branch,), cpus=float(threads)) for branch in branches]
    failed = []
    for outcome in pool.run(jobs, shared=loop, ledger=ledger):
        if outcome.error is not None:
            failed.append(outcome)
        else:
            yield outcome.result
    for outcome in failed:
        outcome.value()


def train_plan(
    loop: Loop,
    plan: Plan,
    pool: Pool,
    *,
    out: Path | None = None,
    begin: Callable[[Plan], object] | None = None,
    progress: Progress | None = None,
    threads: int = 1,
) -> Fork:
    """Train the branches of a plan, all of them or as in a race.

    Args:
        loop: The training.
        plan: What to do.
        pool: Where the branches are trained.
        out: A folder. Finished branches are kept below it, and are not trained again by the same
            plan.
        begin: Called with the plan before the first branch.
        progress: Called after every branch.
        threads: Threads of torch in every branch.

    Raises:
        GradiometerError: A branch failed; the others are kept.
    """
    record = None if out is None else ForkRecord.keep(out, plan)
    if record is not None and record.finished:
        return replace(record.fork, path=record.path)
    if begin is not None:
        begin(plan)
    ledger = None if record is None else record.ledger()
    total, done, is_stopped = len(plan.branches), 0, False

    def train(branches: Sequence[Branch]) -> Iterator[BranchResult]:
        nonlocal done, is_stopped
        for result in train_branches(pool, loop, branches, ledger=ledger, threads=threads):
            done += 1
            if progress is not None and progress(result, done, max(total, done)) is False:
                is_stopped = True
            yield result
            if is_stopped:
                return

    results, stops = list[BranchResult](), list[Stop]()
    if plan.rungs:
        found = race(
            train,
            plan.alternatives,
            plan.rungs,
            budget=plan.budget or None,
            tail=plan.tail,
        )
        results, stops = found.results, found.stops
    else:
        results.extend(train(plan.branches))
    if record is not None:
        record.finish(stops)
    return replace(
        plan.fork(results), path=None if record is None else record.path, notes=loop.warnings
    )
