"""`gradiometer runs`: the runs on disk, as a list, in comparison, or as a table of their
numbers."""

import math
from collections.abc import Sequence
from functools import partial
from glob import glob
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gradiometer.cli.options import OutFile, json_option, no_open_option
from gradiometer.cli.options import runs as runs_of
from gradiometer.cli.outcome import fill, line_width, open_in_browser, print_outcome, printed_json
from gradiometer.cli.sections import SectionedGroup
from gradiometer.storage.disk import is_run

if TYPE_CHECKING:
    from gradiometer.report.compare.contrast import Contrast, RunGroup
    from gradiometer.report.overview import RunRow

ORDERS = ("age", "name", "loss", "score", "steps", "limits")


@click.command("list", epilog="Example: gradiometer runs --sort loss --match 'digits-*'")
@click.argument("folder", type=click.Path(path_type=Path), default=Path("runs"))
@click.option(
    "--sort",
    type=click.Choice(ORDERS),
    default=None,
    help="Order: newest, name, lowest loss, best test score, most steps, or what limits it. "
    "Default: age; with --page limits.",
)
@click.option("--match", default="*", show_default=True, help="Pattern for the names of the runs.")
@click.option(
    "--page",
    type=click.Path(path_type=Path),
    default=None,
    help="Also write the list as an HTML page.",
)
@json_option
def list_runs(folder: Path, sort: str | None, match: str, page: Path | None, as_json: bool) -> None:
    """List the runs in FOLDER (default: runs), each with its last loss, test score and verdict."""
    from gradiometer.report.overview import listing, write_overview

    order = sort or ("age" if page is None else "limits")
    found, warnings = listing(folder, sort=order, match=match)
    for warning in warnings:
        click.echo(f"warning: {warning}", err=True)
    if as_json:
        with printed_json({"runs": [run.to_dict() for run in found]}) as result:
            if page is not None:
                result["page"] = write_overview(found, page)
        return
    _print_list(found, folder)
    if page is not None:
        click.echo(f"\npage  {write_overview(found, page)}")


def _print_list(found: "Sequence[RunRow]", folder: Path) -> None:
    """Print a table, with optimizer and verdict of each run below its line."""
    from gradiometer.report.overview import COLUMNS

    if not found:
        click.echo(f"No such runs in `{folder}`.")
        return
    rows = [("run", *COLUMNS)] + [
        (
            f"{run.symbol} {run.path.name}",
            *(words(run) for words in COLUMNS.values()),
        )
        for run in found
    ]
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    fits = sum(widths) + 2 * len(widths) <= line_width()
    for place, (name, *numbers) in enumerate(rows):
        cells = "  ".join(
            cell.rjust(width) for cell, width in zip(numbers, widths[1:], strict=True)
        )
        click.echo(f"{name:<{widths[0]}}  {cells}" if fits else f"{name}\n  {cells}")
        if place:
            run = found[place - 1]
            click.echo(
                fill(f"{run.brief} · {run.optimizer}" if run.optimizer else run.brief, indent=2)
            )


@click.command(epilog="Example: gradiometer runs compare runs/digits-mlp-1 runs/digits-mlp-2")
@click.argument(
    "runs", type=click.Path(path_type=Path), shell_complete=runs_of, nargs=-1, required=True
)
@click.option(
    "--out",
    type=OutFile(),
    default=Path("compare.html"),
    show_default=True,
    help="File of the page.",
)
@no_open_option
@json_option
def compare(runs: tuple[Path, ...], out: Path, no_open: bool, as_json: bool) -> None:
    """Compare two or more RUNS: differences from the first in loss, test score and noise scale,
    with intervals.

    RUNS are folders, or patterns such as 'runs/digits-*'. Folders that hold no run are left out.
    Test losses are compared example by example.

    Runs that differ only in their seed are one group: its numbers are means over the seeds. Groups
    with the same seeds are compared seed by seed, since these have the same order of the data. One
    run of each group says something about these runs only; several seeds of each say something
    about the configurations.
    """
    from gradiometer.report.compare.compare import compare as compared_runs
    from gradiometer.report.compare.page import write_comparison
    from gradiometer.run.reader import Run

    groups, contrasts = compared_runs([Run.open(path) for path in _run_folders(runs)])
    print_outcome(
        partial(_as_object, groups, contrasts),
        partial(_tell, groups, contrasts),
        {"page": lambda: write_comparison(groups, contrasts, out)},
        as_json=as_json,
    )
    open_in_browser(out.resolve().as_uri(), no_open=no_open or as_json)


def _run_folders(given: tuple[Path, ...]) -> list[Path]:
    """The folders, with patterns replaced by what they match. Folders without a run are left
    out, with a line, if two others have one."""
    found: list[Path] = []
    for path in given:
        # `Path.glob` takes no absolute pattern
        matches = [Path(name) for name in sorted(glob(str(path)))]  # noqa: PTH207
        found += [path] if path.exists() else matches or [path]
    runs = [path for path in found if not path.exists() or is_run(path)]
    if len(runs) < len(found) and len(runs) < 2:
        return found
    for path in found:
        if path not in runs:
            click.echo(f"left out: {path} is not a run.", err=True)
    return runs


def _as_object(groups: "tuple[RunGroup, ...]", contrasts: "tuple[Contrast, ...]") -> dict[str, Any]:
    from gradiometer.report.compare.contrast import claim, sentence, verdict
    from gradiometer.report.compare.page import tried_by

    return {
        "verdict": verdict(groups, contrasts),
        "groups": [
            {
                "letter": group.letter,
                "runs": [{"run": str(each.run.path), "seed": each.seed} for each in group.runs],
                "step": group.step,
                "estimates": {name: estimate.to_dict() for name, estimate in group.numbers.items()},
            }
            for group in groups
        ],
        "contrasts": [
            {
                "baseline": contrast.names[0],
                "other": contrast.names[1],
                "step": contrast.step,
                "changed": contrast.changed,
                "difference_shown": contrast.shown,
                "seen": sentence(contrast),
                "means": claim(contrast),
                "differences": [
                    {
                        "quantity": each.quantity,
                        "as": "ratio" if each.is_ratio else "difference",
                        "over": each.over,
                        **each.estimate.to_dict(),
                        "pairs_needed": each.needed,
                    }
                    for each in contrast.differences
                ],
            }
            for contrast in contrasts
        ],
        "forks": [
            {
                "letter": each.group.letter,
                "run": str(each.compared.run.path),
                "fork": str(each.record.path),
                "step": each.record.plan.step,
                **each.effect.to_dict(),
            }
            for each in tried_by(groups)
        ],
    }


def _tell(groups: "tuple[RunGroup, ...]", contrasts: "tuple[Contrast, ...]") -> None:
    """Print each group with its numbers, the verdict, and each contrast as sentences
    and numbers."""
    from gradiometer.loop.branches import label_of, outcome, place
    from gradiometer.report.compare.contrast import QUANTITIES, finding_of, verdict
    from gradiometer.report.compare.page import CAVEAT, changes, in_words, tried_by
    from gradiometer.verdict.words.say import say

    for group in groups:
        words = ", ".join(
            f"{each.run.path} ({each.seed_words}, {each.run.steps:,} steps, {each.run.status})"
            for each in group.runs
        )
        seeds = f"{group.seeds}: " if len(group.runs) > 1 else ""
        click.echo(fill(f"{group.letter:<2} {seeds}{words}", hanging=3))
        for quantity, estimate in group.numbers.items():
            click.echo(f"   {QUANTITIES[quantity]:<15}{in_words(estimate)}")
    if len(contrasts) != 1:
        click.echo("\n" + fill(verdict(groups, contrasts)))
    for contrast in contrasts:
        finding, (first, second) = finding_of(contrast), contrast.names
        click.echo(
            "\n"
            + fill(
                f"{finding.state.symbol} {second} against {first}: {changes(contrast)}", hanging=2
            )
        )
        said = say(finding)
        for text in (said.seen, said.means):
            click.echo(fill(text, indent=2))
        for difference in contrast.differences:
            name = (
                f"{QUANTITIES[difference.quantity]} "
                f"{'ratio' if difference.is_ratio else 'difference'}"
            )
            known = not math.isnan(difference.estimate.value)
            none_shown = "   none shown" if known and not difference.shown else ""
            click.echo(f"    {name:<26} {in_words(difference.estimate)}{none_shown}")
    if contrasts:
        click.echo("\n" + fill(f"caution: {CAVEAT}"))
    for named, same in groupby(tried_by(groups), key=lambda each: each.named):
        click.echo("\n" + fill(f"fork: {named}, against going on as it is"))
        for each in same:
            found = each.record.fork
            words = (
                f"{place(found.step, found.ends_after)}: "
                f"{outcome(each.effect, is_at_end=found.shows_end)} in "
                f"{label_of(each.effect.readout)}"
            )
            click.echo(fill(f"{each.runs}  {words}", indent=4, hanging=4))
    click.echo()


@click.command(epilog="Example: gradiometer runs export runs/digits-cnn-1 --out readings.csv")
@click.argument("run", type=click.Path(path_type=Path), shell_complete=runs_of)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    help="File to write, with the ending .csv or .parquet (needs pyarrow).",
)
@click.option(
    "--what",
    type=click.Choice(["readings", "losses", "evaluations"]),
    default="readings",
    show_default=True,
    help=(
        "Moments of every measured step, the loss of every step, or the estimates on held-out data."
    ),
)
def export(run: Path, out: Path, what: str) -> None:
    """Write all numbers of RUN as a table, one row per step."""
    from gradiometer.report.table import table_of, write_table
    from gradiometer.run.reader import Run

    rows = write_table(table_of(Run.open(run), what), out)
    click.echo(f"{rows:,} rows in {out}")


class ListByDefault(SectionedGroup):
    """A group that lists if no command is named: `gradiometer runs FOLDER` is `gradiometer runs
    list FOLDER`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """The arguments, with the name of the command."""
        named = bool(args) and (args[0] in self.commands or args[0] in ctx.help_option_names)
        return super().parse_args(ctx, args if named else ["list", *args])


@click.group(cls=ListByDefault, epilog="Example: gradiometer runs --sort loss --match 'digits-*'")
def runs() -> None:
    """List the runs of a folder (without a further command), compare some, or export one as a
    table."""


for verb in (list_runs, compare, export):
    runs.add_command(verb)
