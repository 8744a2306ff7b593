"""`gradiometer learn schedule`: learning rates by the convergence theorem, and over a
finite run."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gradiometer.cli.options import OutFile, json_option
from gradiometer.cli.outcome import printed_json
from gradiometer.errors import BadArgument
from gradiometer.storage.disk import writing

if TYPE_CHECKING:
    from gradiometer.convergence.schedules.horizon import RateOverRun
    from gradiometer.convergence.schedules.schedule import Schedule
    from gradiometer.convergence.theorem.theorem import TheoremVerdict

# Steps drawn without --steps, and the length of a named schedule, which starts at the default rate
# of `gradiometer train`.
DRAWN = 1000

WORDS = {True: "yes", False: "no", None: "undecided"}

EXAMPLE = """\
Example: gradiometer learn schedule '1/t' '0.1/sqrt(t)' 'Cosine(0.1, steps=1000)' --steps 1000
"""


# -1/t is a formula
@click.command(epilog=EXAMPLE, context_settings={"ignore_unknown_options": True})
@click.argument("expressions", metavar="EXPR...", nargs=-1, required=True)
@click.option(
    "--steps", type=click.IntRange(min=1), help="Also judge each EXPR over a run of this length."
)
@click.option(
    "--tuned",
    type=float,
    help="Best peak rate of the first EXPR: convert it for the others. Needs --steps.",
)
@json_option
@click.option("--png", type=OutFile(in_folder=True), help="Save a chart as this PNG file.")
def schedule(
    expressions: tuple[str, ...],
    steps: int | None,
    tuned: float | None,
    as_json: bool,
    png: Path | None,
) -> None:
    """Check learning rates against the convergence theorem.

    EXPR is a formula in t = 1, 2, … such as '1/(t*log(t+1)**2)', or a shape such as 'Cosine(0.1,
    steps=1000)', counted from step 0, that is t - 1. constant, cosine, linear and trapezoid are
    those of `gradiometer train`: they start at 0.1, and the last three end at zero after --steps
    steps (1,000 by default). The theorem needs a rate that goes to zero, with an infinite sum and a
    finite sum of squares. A condition that cannot be decided for a formula is reported as
    undecided.
    """
    from gradiometer.convergence.schedules.horizon import horizon, transfer_rate
    from gradiometer.convergence.schedules.schedule import Schedule
    from gradiometer.convergence.schedules.shapes import schedule_by_name
    from gradiometer.convergence.theorem.theorem import read, theorem
    from gradiometer.run.configuration import OPTIMIZERS

    if tuned is not None and steps is None:
        raise BadArgument("`--tuned` needs the length of the run. Add --steps.")
    shapes = list[Schedule]()
    for expression in expressions:
        name = expression.strip().lower()
        found = schedule_by_name(name, OPTIMIZERS["sgd"].rate, steps or DRAWN)
        shapes.append(found or read(expression))
    verdicts = [
        replace(theorem(shape), expression=expression)
        for expression, shape in zip(expressions, shapes, strict=True)
    ]
    runs = [] if steps is None else [horizon(shape, steps) for shape in shapes]
    # the tuned rate of the first one, converted
    peaks = (
        []
        if tuned is None or steps is None
        else [transfer_rate(tuned, shapes[0], shape, steps) for shape in shapes]
    )
    if as_json:
        entries = [verdict.to_dict() for verdict in verdicts]
        for entry, run in zip(entries, runs, strict=False):
            entry["horizon"] = run.to_dict()
        for entry, peak in zip(entries, peaks, strict=False):
            entry["horizon"]["transferred_peak"] = peak
        with printed_json({"schedules": entries}):
            _save_chart(expressions, shapes, steps, png)
    else:
        _print(verdicts, runs, peaks)
        _save_chart(expressions, shapes, steps, png)


def _save_chart(
    expressions: "tuple[str, ...]", shapes: "list[Schedule]", steps: int | None, png: Path | None
) -> None:
    if png is None:
        return
    from gradiometer.convergence.schedules.horizon import picture

    chart: Any = picture(dict(zip(expressions, shapes, strict=True)), steps or DRAWN)
    with writing(png, "choose another file"):
        chart.save(png, format="png", scale_factor=2)
    click.echo(f"Saved the chart as {png}.", err=True)


def _print(verdicts: "list[TheoremVerdict]", runs: "list[RateOverRun]", peaks: list[float]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from gradiometer.convergence.theorem.theorem import CONDITIONS

    console = Console(markup=False, highlight=False)
    table = Table(box=None, pad_edge=False)
    for heading in ("η_t", "→ 0", "Σ η = ∞", "Σ η² < ∞", "theorem"):
        table.add_column(heading, overflow="fold")
    for verdict in verdicts:
        answers = [WORDS[getattr(verdict, name)] for name in (*CONDITIONS, "theorem")]
        table.add_row(Text(verdict.expression), *answers)
    console.print(table)
    for place, verdict in enumerate(verdicts):
        console.print(f"\n{verdict.expression}: {verdict.why}")
        if runs:
            console.print(str(runs[place]))
        if peaks:
            console.print(f"With the tuned rate of the first, the peak here is {peaks[place]:.3g}.")
    if runs:
        console.print(
            "\nThe worst case is over convex losses, with a distance D to the minimum and "
            "gradients up to G (Defazio et al. 2023). It ranks shapes and predicts no loss."
        )
