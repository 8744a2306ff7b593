"""`gradiometer fork`: what would have happened with another rate, batch, momentum or schedule, and
why the loss spiked.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gradiometer.cli.options import SEED, json_option, pool_option, runs
from gradiometer.cli.outcome import fill, line_width, print_json, print_outcome
from gradiometer.cli.sections import SectionedCommand
from gradiometer.errors import BadArgument, Interrupted
from gradiometer.measurement.estimate import significant

if TYPE_CHECKING:
    from gradiometer.loop import Alternative, Effect, Loop
    from gradiometer.loop.recorded.incidents import IncidentCause
    from gradiometer.loop.recorded.record import ForkRecord
    from gradiometer.run.reader import Run


# The changes that are tried by default.
DEFAULTS = ("rate 0.5x", "rate 2x", "batch 2x, rate sqrt")


# The headings of the help screen, with their options.
SECTIONS = {
    "Basic options": ("advice", "at", "horizon", "replicates", "as_json"),
    "Explain a spike": ("spike",),
    "Advanced options": ("own", "tail", "budget", "readout", "seed", "pool"),
}


@click.command(
    cls=SectionedCommand,
    sections=SECTIONS,
    short_help="Train copies of a run with other settings, and compare where they end.",
    epilog="Example: gradiometer fork runs/digits-cnn-1 'rate 0.5x' 'rate 2x' 'batch 2x, rate sqrt'",
)
@click.argument("run", type=click.Path(path_type=Path), shell_complete=runs)
@click.argument("changes", nargs=-1, metavar="[CHANGE]...")
@click.option("--advice", is_flag=True, help="Try what the findings of RUN suggest.")
@click.option(
    "--spike",
    type=int,
    default=None,
    metavar="STEP",
    help=(
        "Why the loss spiked, rose or was not finite at this step: its updates are made again, each "
        "time with something left out. Takes --json only."
    ),
)
@click.option(
    "--loop",
    "own",
    default=None,
    metavar="MODULE:FUNCTION",
    help=(
        "For a watched run: a function of yours that returns its Loop, as it is at the step to "
        "fork from."
    ),
)
@click.option(
    "--at",
    type=int,
    default=None,
    metavar="STEP",
    help="Step to fork from. Default: the middle of a finished run, else the newest checkpoint.",
)
@click.option(
    "--horizon",
    default=None,
    metavar="LENGTH",
    help=(
        "Length of a branch: 25%, 500 updates, 2 epochs, 64_000 examples or 10 s. A share is one "
        "of what is left of the run; a length in seconds depends on the machine; 'end' trains to "
        "the end of the run, by its own schedule.  [default: end with --advice, and if all branches "
        "together make at most 10 times the updates of RUN; else 25%]"
    ),
)
@click.option(
    "--tail",
    type=click.Choice(["linear", "half", "third", "none"]),
    default=None,
    help=(
        "How the rate of each branch ends: it falls to zero over the whole branch, over its last "
        "half or third, or not at all, which favours small rates.  [default: linear; to the end of "
        "the run its own schedule, or half where the rate stays high]"
    ),
)
@click.option(
    "--replicates",
    type=click.IntRange(min=1),
    default=None,
    help="Number of data orders, each common to all alternatives.  [default: 4]",
)
@click.option(
    "--budget",
    type=float,
    default=None,
    metavar="RUNS",
    help=(
        "Race: spend at most this many times the cost of RUN, over growing horizons, and stop "
        "alternatives that are clearly worse; to the end of RUN, if it pays for that. In place of "
        "--horizon and --replicates."
    ),
)
@pool_option
@click.option(
    "--readout",
    type=click.Choice(["test_loss", "train_loss", "test_accuracy"]),
    default=None,
    help="What is compared. Default: the test loss, or without a test set the training loss.",
)
@click.option("--seed", type=SEED, default=0, show_default=True, help="Seed of the data orders.")
@json_option
def fork(
    run: Path,
    changes: tuple[str, ...],
    advice: bool,
    spike: int | None,
    own: str | None,
    at: int | None,
    horizon: str | None,
    tail: Any,
    replicates: int | None,
    budget: float | None,
    pool: str,
    readout: str | None,
    seed: int,
    as_json: bool,
) -> None:
    """Train RUN on from one of its steps in several ways, and compare where they end.

    Each CHANGE is trained on the same data as the baseline, which continues unchanged. Branches to
    the end of a run whose rate stays high are trained twice, with the rate kept and cooled; any
    other branch, and one of --advice, ends with a rate of zero. A CHANGE is a text: 'rate 2x', 'batch 2x, rate sqrt',
    'momentum 0.9', 'weight decay 0.01', 'clip 1', 'cool now', 'skip 1200:1205' (without the batches
    of these steps; the last is not), 'follow Cosine(0.1, steps=500)', 'AdamW(lr=0.001)', or several
    of them with & between, such as 'rate 2x & momentum 0.95'. If none is given, these are tried:
    half and twice the rate, and twice the batch with 1.41 times the rate.

    RUN is not changed. The branches are kept in its folder forks/ and shown on its page. If the
    command is stopped, the same command continues; if it is repeated, it shows the result.
    """
    from gradiometer.cli.progress import following, start_pool
    from gradiometer.loop.branches import KEPT
    from gradiometer.loop.recorded.record import ForkRecord
    from gradiometer.run.reader import Run

    opened = Run.open(run)
    if spike is not None:
        given = [own, at, horizon, tail, replicates, budget, readout, seed or None]
        if changes or advice or pool != "here" or any(value is not None for value in given):
            raise BadArgument(
                "`--spike` chooses the branches itself: leave out all other flags but --json."
            )
        explain_spike(opened, spike, as_json=as_json)
        return
    alternatives = _alternatives(opened, changes, advice)
    if advice and horizon is None and budget is None:
        horizon = "end"
    try:
        with start_pool(pool) as where, following(quiet=as_json) as progress:
            from gradiometer.loop.forking import check_asked
            from gradiometer.loop.forking import fork as train_fork
            from gradiometer.train.restoring import loop_at

            # before steps of the run are made again, which may take minutes
            check_asked(horizon, budget, replicates)
            begun = loop_at(opened, at) if own is None else _own_loop(opened, own, at)
            found = train_fork(
                begun,
                alternatives,
                horizon=horizon,
                replicates=replicates,
                tail=tail,
                kept=not advice,
                budget=budget,
                seed=seed,
                pool=where,
                threads=opened.configuration.threads,
                out=opened.path,
                begin=progress.begin,
                progress=progress.update,
            )
    except KeyboardInterrupt:
        raise Interrupted(
            "stopped: the same command continues from the branches that are finished."
        ) from None
    was_finished, level = not progress.began, opened.configuration.level
    shown = [
        (ForkRecord.of(one), one.effects(readout, level=level), one.notes)
        for one in (found, found.kept)
        if one is not None
    ]

    def as_object() -> dict[str, Any]:
        cooled, *kept = (_as_object(opened, *one, was_finished) for one in shown)
        return {**cooled, "kept": kept[0] if kept else None}

    def tell() -> None:
        for place, one in enumerate(shown):
            if place:
                click.echo("\n" + KEPT + "\n")
            _tell(*one, was_finished)

    print_outcome(
        as_object,
        tell,
        {"page": lambda: _page(opened)},
        as_json=as_json,
    )


def _alternatives(run: "Run", changes: tuple[str, ...], advice: bool) -> "tuple[Alternative, ...]":
    """The changes of the command line, each once, or the default ones."""
    from gradiometer.loop.changes.text import alternative_of
    from gradiometer.loop.recorded.trials import alternatives_of
    from gradiometer.verdict.diagnosis import diagnose

    found = []
    for text in changes:
        try:
            found.append(alternative_of(text))
        except BadArgument as error:
            raise BadArgument(f"`CHANGE` {text!r} cannot be used: {error}") from None
    if advice:
        advised = alternatives_of(diagnose(run).findings)
        if not advised:
            raise BadArgument(
                f"`--advice` finds nothing to try: no finding of `{run.path}` advises another "
                "rate, batch or cut."
            )
        found += advised
    return tuple({one.name: one for one in found}.values()) or tuple(map(alternative_of, DEFAULTS))


def _own_loop(run: "Run", name: str, at: int | None) -> "Loop":
    """The loop that a function of the user returns for a watched run.

    Raises:
        BadArgument: It is not the loop of this run.
    """
    from gradiometer.loop import Loop
    from gradiometer.problems.imported import function_of
    from gradiometer.problems.user_code import user_code
    from gradiometer.verdict.triage.signs import Signs

    if not run.watched:
        raise BadArgument(
            f"`--loop` is for a watched run, and `{run.path}` is one of `gradiometer train`: omit "
            "it."
        )
    if at is not None:
        raise BadArgument(
            f"`--at` is the step at which `{name}` returns the loop: give Loop its `index`, and "
            "omit it."
        )
    with user_code(name):
        loop = function_of(name, "loop")()
    if not isinstance(loop, Loop):
        raise BadArgument(
            f"`{name}` must return a gradiometer.loop.Loop, got {type(loop).__name__}."
        )
    facts = Signs.of(run).facts
    known = dict(zip(facts.get("tensors", ()), facts.get("sizes", ()), strict=True))
    sizes = {name: one.numel() for name, one in loop.model.named_parameters() if one.requires_grad}
    if known and sizes != known:
        raise BadArgument(
            f"`{name}` returns a loop with other parameters than those of `{run.path}`."
        )
    if loop.size != run.configuration.batch_size:
        raise BadArgument(
            f"`{name}` returns a loop with {loop.size} examples in an update, and `{run.path}` had "
            f"{run.configuration.batch_size}."
        )
    loop.warnings = (
        f"The updates of the loop from {name} were not compared with those of the watched run.",
    )
    return loop


def _page(run: "Run") -> str | None:
    """The page with the fork, unless a process is writing the run: it writes its page itself at the
    end."""
    from gradiometer.report.page.page import write_page
    from gradiometer.verdict.diagnosis import diagnose

    now = run.refreshed()
    return None if now.status == "running" else str(write_page(now, diagnose(now)))


def _as_object(
    run: "Run",
    record: "ForkRecord",
    effects: "tuple[Effect, ...]",
    notes: tuple[str, ...],
    was_finished: bool,
) -> dict[str, Any]:
    from gradiometer.loop.branches import sentence

    found = record.fork
    readout = effects[0].readout if effects else None
    return {
        "run": str(run.path),
        "fork": str(record.path),
        "was_finished": was_finished,
        "plan": record.plan.to_dict(),
        "sentence": sentence(found, effects),
        "readout": readout,
        "effects": [effect.to_dict() for effect in effects],
        "at_end": [effect.to_dict() for effect in found.at_end(readout)] if found.shows_end else [],
        "branches": [
            {
                "alternative": result.alternative,
                "replicate": result.replicate,
                "updates": result.updates,
                "examples": result.examples,
                "seconds": result.seconds,
                "readouts": {name: readout.mean for name, readout in result.readouts.items()},
                "diverged": result.diverged,
            }
            for result in found.results
        ],
        "stopped": list(record.stops or ()),
        "warnings": [*notes, *record.warnings],
    }


def _tell(
    record: "ForkRecord",
    effects: "tuple[Effect, ...]",
    notes: tuple[str, ...],
    was_finished: bool,
) -> None:
    """Print the sentence, the table, warnings, what more replicates would decide, and the place."""
    from rich.console import Console
    from rich.table import Table

    from gradiometer.loop.branches import (
        label_of,
        mean_end,
        sentence,
        signed,
        stopped,
        undecided,
    )

    found = record.fork
    if was_finished:
        click.echo(fill(f"This fork was finished before: {record.path}") + "\n")
    for warning in (*notes, *record.warnings):
        click.echo(fill(f"warning: {warning}", hanging=2), err=True)
    click.echo(fill(sentence(found, effects)) + "\n")
    # one row for each alternative, after that of the baseline
    readout = effects[0].readout if effects else ""
    diverging = any(result.diverged for result in found.results)
    drawn = Table(box=None, pad_edge=False)
    drawn.add_column("", min_width=12)
    for title in (label_of(readout), "change", "updates", "seconds", *["diverged"] * diverging):
        drawn.add_column(title, justify="right", no_wrap=True)
    by_name = {effect.alternative: effect for effect in effects}
    for name in found.names:
        results, effect = found.of(name), by_name.get(name)
        drawn.add_row(
            name,
            mean_end(results, readout),
            "" if effect is None else signed(effect.estimate),
            f"{max(result.updates for result in results):,}",
            f"{sum(result.seconds for result in results) / len(results):.2g}",
            *[str(sum(result.diverged is not None for result in results) or "")] * diverging,
        )
        if effect is not None and effect.in_general is not None:
            known = effect.in_general
            ends = (significant(end, 2) for end in (known.low, known.high))
            wide = f"[{', '.join(ends)}]" if known.tells else ""
            drawn.add_row("  in general", "", wide, "", "")
    Console(width=line_width()).print(drawn)
    for more in (*stopped(record.stops or ()), *undecided(effects)):
        click.echo("\n" + fill(more))
    click.echo(f"\nfork  {record.path}")


def explain_spike(run: "Run", step: int, *, as_json: bool) -> None:
    """Make the updates before a spike or another incident again, and print its cause."""
    from gradiometer.cli.progress import working
    from gradiometer.train.forking.run_incident import incident_cause
    from gradiometer.verdict.words.incidents import incident_sentence

    with working("making the updates again", quiet=as_json):
        cause = incident_cause(run, step)
    if as_json:
        print_json({"run": str(run.path), "incident": _incident(run, cause)})
    else:
        click.echo(fill(incident_sentence(cause, run.path)) + "\n")
        width = max(map(len, cause.tried))
        click.echo(f"{'from step ' + format(cause.start, ','):<{width}}  came")
        for name, came in cause.tried.items():
            click.echo(f"{name:<{width}}  {'yes' if came else 'no':>4}")


def _incident(run: "Run", found: "IncidentCause") -> dict[str, Any]:
    from gradiometer.verdict.words.incidents import incident_sentence

    incident = found.incident
    return {
        "kind": incident.kind,
        "first": incident.first,
        "last": incident.last,
        "level": incident.level,
        "height": incident.height,
        "from": found.start,
        "cause": found.cause,
        "step": found.step,
        "examples": list(found.examples),
        "layer": found.layer,
        "factor": found.factor,
        "sentence": incident_sentence(found, run.path),
        "tried": dict(found.tried),
    }
