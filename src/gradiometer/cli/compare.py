"""`gradiometer compare`: differences between runs."""

import math
import sys
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gradiometer.cli.options import json_option

if TYPE_CHECKING:
    from gradiometer.report.compare.contrast import Compared, Contrast


@click.command(epilog="Example: gradiometer compare runs/digits-mlp-1 runs/digits-mlp-2")
@click.argument("runs", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option("--level", type=float, default=None, help="Confidence level. Default: that of the first run.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("compare.html"),
    show_default=True,
    help="File of the page.",
)
@click.option("--no-open", is_flag=True, help="Do not open the page in a browser.")
@json_option
def compare(runs: tuple[Path, ...], level: float | None, out: Path, no_open: bool, as_json: bool) -> None:
    """Compare two to six RUNS: differences from the first in loss, test score and noise scale, with intervals.

    Runs that differ only in their seed count as one configuration. To compare configurations and not only two runs,
    give several seeds of each.
    """
    from gradiometer.cli.outcome import printed_json
    from gradiometer.errors import BadArgument
    from gradiometer.report.compare.compare import compare as compared_runs
    from gradiometer.report.compare.page import write_comparison
    from gradiometer.run.reader import Run

    if level is not None and not 0 < level < 1:
        raise BadArgument(f"`--level` must lie between 0 and 1, got {level}.")
    compared, contrasts = compared_runs([Run.open(path) for path in runs], level)
    if as_json:
        with printed_json(_as_object(compared, contrasts)) as result:
            result["page"] = write_comparison(compared, contrasts, out)
        return
    _tell(compared, contrasts)
    page = write_comparison(compared, contrasts, out)
    click.echo(f"\npage  {page}")
    if not no_open and sys.stdout.isatty():
        webbrowser.open(page.resolve().as_uri())


def _as_object(compared: "tuple[Compared, ...]", contrasts: "tuple[Contrast, ...]") -> dict[str, Any]:
    from gradiometer.report.compare.contrast import claim, sentence

    return {
        "verdict": " ".join(sentence(contrast) for contrast in contrasts),
        "runs": [{"letter": each.letter, "run": str(each.run.path), "seed": each.seed} for each in compared],
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
        "page": None,
    }


def _tell(compared: "tuple[Compared, ...]", contrasts: "tuple[Contrast, ...]") -> None:
    """Print each run with its letter, and each contrast as sentences and numbers."""
    from gradiometer.cli.outcome import filled
    from gradiometer.report.charts.interval_strip import interval, number
    from gradiometer.report.compare.contrast import QUANTITIES
    from gradiometer.report.compare.page import CAVEAT, changes, finding_of

    for each in compared:
        click.echo(f"{each.letter}  {each.run.path}  seed {each.seed}, {each.run.steps:,} steps, {each.run.status}")
    for contrast in contrasts:
        finding, (first, second) = finding_of(contrast), contrast.names
        click.echo("\n" + filled(f"{finding.state.symbol} {second} against {first}: {changes(contrast)}"))
        for text in (finding.seen, finding.means):
            click.echo(filled(text, indent=2))
        for difference in contrast.differences:
            name = f"{QUANTITIES[difference.quantity]} {'ratio' if difference.is_ratio else 'difference'}"
            estimate = difference.estimate
            words = f"{number(estimate.value)} {interval(estimate)}{'' if difference.shown else '   none shown'}"
            click.echo(f"    {name:<26} {'cannot tell yet' if math.isnan(estimate.value) else words}")
    click.echo("\n" + filled(f"caution: {CAVEAT}"))
