"""`gradiometer ensemble`: the snapshots of a run as one model, scored against what else there is."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gradiometer.cli.options import json_option

if TYPE_CHECKING:
    from gradiometer.exploration.ensembles.ensemble_report import EnsembleReport
    from gradiometer.measurement.estimate import Estimate
    from gradiometer.train.ensemble import EnsembleStudy


@click.command(epilog="Example: gradiometer ensemble runs/digits-mlp-3 --against runs/digits-mlp-1 --export digits.pt2")
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--against",
    type=click.Path(path_type=Path),
    multiple=True,
    help="Another run on the same data, such as a single one of the same length; may be given several times.",
)
@click.option("--export", type=click.Path(dir_okay=False, path_type=Path), default=None, help="A .pt2 or .onnx file.")
@click.option(
    "--points",
    type=click.IntRange(min=0),
    default=9,
    show_default=True,
    help="Places looked at on the way between two members; 0 leaves the barriers out.",
)
@click.option("--level", type=float, default=0.9, show_default=True, help="Confidence level of every interval.")
@json_option
def ensemble(
    run: Path, against: tuple[Path, ...], export: Path | None, points: int, level: float, as_json: bool
) -> None:
    """Average what the snapshots of RUN predict, and say what that gives.

    Scored on test examples, a quarter of which only choose how many snapshots to take and how to calibrate; compared
    with the last snapshot, with the average of the weights and with other runs, each difference paired by example. The
    run keeps what was found and shows it on its page.
    """
    from gradiometer.errors import BadArgument

    if export is not None:
        from gradiometer.exploration.ensembles.export import check_file

        check_file(export)
    if not 0 < level < 1:
        raise BadArgument(f"`--level` must lie between 0 and 1, got {level}: write 0.9 for 90 %.")
    from gradiometer.train.ensemble import example_inputs, study

    found = study(run, against, points=points, level=level)
    if export is not None:
        from gradiometer.exploration.ensembles.export import export as write

        write(found.ensemble, example_inputs(found), export)
    page = _kept(found)
    if as_json:
        from gradiometer.cli.outcome import print_json

        worth = found.worth
        print_json(
            {
                "run": run,
                **asdict(worth),
                "scores": worth.scores,
                "sentences": worth.sentences,
                "export": export,
                "report": page,
            }
        )
        return
    _tell(found.worth, export, page)


def _kept(study: "EnsembleStudy") -> Path:
    """Write what was found into the run, and its page anew. Returns where the page is."""
    from gradiometer.diagnosis import diagnose
    from gradiometer.report.page.page import write_page
    from gradiometer.run.artifacts import save_artifact

    save_artifact(study.run, study.worth)
    return write_page(study.run, diagnose(study.run))


def _tell(worth: "EnsembleReport", export: Path | None, page: Path) -> None:
    """The scores, the differences, how unlike the members are, and what it comes to."""
    from gradiometer.cli.outcome import filled
    from gradiometer.exploration.ensembles.ensemble_report import negative

    members = f"The last {worth.chosen} of {worth.snapshots} snapshots, averaged"
    others = f"{worth.validation:,} others chose how many, and τ = {worth.temperature:.3g}"
    click.echo(filled(f"{members}, on {worth.scored:,} test examples ({others}).") + "\n")
    _table(worth.scores)
    for rival in worth.against:
        click.echo(f"\nless {rival.name} (below zero: the ensemble is better)")
        _table(rival.difference)
    click.echo("\n" + filled("of the last m, calibrated log-loss, and what the m-th adds (above zero is better)"))
    for size in worth.growing:
        added = negative(size.added["calibrated_nll"]) if size.added else ""
        click.echo(f"  m = {size.members:<3} {size.scores['calibrated_nll']!s:<31}{added}".rstrip())
    click.echo(f"\n  {'disagreement / error':<30}{worth.disagreement_over_error}")
    values = [pair.correlation.value for pair in worth.correlations]
    click.echo(f"  {'correlation of outputs':<30}{min(values):.4f} to {max(values):.4f}")
    for way in worth.barriers:
        click.echo(f"  {f'barrier {way.snapshot} to {worth.snapshots}':<30}{way.barrier}")
    for sentence in worth.sentences:
        click.echo("\n" + filled(sentence))
    click.echo(f"\npage    {page}")
    if export is not None:
        click.echo(f"export  {export}")


def _table(estimates: "dict[str, Estimate]") -> None:
    from gradiometer.report.sections.ensemble import SCORES

    for name, words in SCORES.items():
        click.echo(f"  {words:<30}{estimates[name]}")
