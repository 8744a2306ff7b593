"""`gradiometer ensemble`: the snapshots of a run as one model, with scores and comparisons."""

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gradiometer.cli.options import json_option, runs
from gradiometer.cli.outcome import fill, print_outcome
from gradiometer.measurement.estimate import Estimate

if TYPE_CHECKING:
    from gradiometer.exploration.ensembles.ensemble_report import EnsembleReport
    from gradiometer.run.ensemble import EnsembleEvaluation


@click.command(
    epilog=(
        "Example: gradiometer ensemble runs/digits-mlp-3 --against runs/digits-mlp-1 --export "
        "digits.pt2"
    )
)
@click.argument("run", type=click.Path(path_type=Path), shell_complete=runs)
@click.option(
    "--against",
    type=click.Path(path_type=Path),
    multiple=True,
    help="Another finished run on the same data to compare with; can be repeated.",
)
@click.option(
    "--export",
    type=click.Path(dir_okay=False, path_type=Path),
    default=None,
    help="Write the ensemble to this .pt2 or .onnx file.",
)
@click.option(
    "--points",
    type=click.IntRange(0, 10_000),
    default=9,
    show_default=True,
    help=(
        "Points on the line in weight space from each snapshot to the last; 0 skips the error "
        "barriers."
    ),
)
@json_option
def ensemble(
    run: Path, against: tuple[Path, ...], export: Path | None, points: int, as_json: bool
) -> None:
    """Average the predictions of the snapshots of RUN and score the average.

    A quarter of the test examples selects the number of snapshots and the calibration; the other
    examples are scored. The ensemble is compared with the last snapshot, with the average of the
    weights and with other runs; each difference is paired by example. The report is kept in the run
    and shown on its page.
    """
    if export is not None:
        from gradiometer.exploration.ensembles.ensemble import check_file

        check_file(export)
    from gradiometer.cli.progress import working
    from gradiometer.report.page.page import keep
    from gradiometer.run.ensemble import evaluate_ensemble
    from gradiometer.verdict.words.exploration import ensemble_in_words

    with working("scoring the snapshots", quiet=as_json):
        found = evaluate_ensemble(run, against, points=points)
    report = found.report
    sentences = ensemble_in_words(report.finding(str(run)))
    print_outcome(
        lambda: {"run": run, **asdict(report), "scores": report.scores, "sentences": sentences},
        partial(_print, report, sentences),
        {"report": lambda: keep(found.run, report), "export": lambda: _export(found, export)},
        as_json=as_json,
    )


def _export(found: "EnsembleEvaluation", path: Path | None) -> Path | None:
    from gradiometer.exploration.ensembles.ensemble import export
    from gradiometer.run.ensemble import example_inputs

    if path is None:
        return None
    return export(found.ensemble, example_inputs(found.problem, found.ensemble), path)


def _print(report: "EnsembleReport", sentences: list[str]) -> None:
    """The scores, the differences, the diversity of the members, and the conclusions."""
    from gradiometer.measurement.estimate import negative

    members = f"The average of the last {report.chosen} of {report.snapshots} snapshots"
    others = f"{report.validation:,} others chose this number and τ = {report.temperature:.3g}"
    click.echo(fill(f"{members}, on {report.scored:,} test examples ({others}).") + "\n")
    _table(report.scores)
    for baseline in report.baselines:
        click.echo(f"\nless {baseline.name} (below zero: the ensemble is better)")
        _table(baseline.difference)
    click.echo(
        "\n" + fill("the last m snapshots: calibrated log-loss, and its decrease by the m-th")
    )
    for size in report.sizes:
        added = negative(size.added["calibrated_nll"]) if size.added else ""
        click.echo(f"  m = {size.members:<3} {size.scores['calibrated_nll']!s:<31}{added}".rstrip())
    click.echo(f"\n  {'disagreement / error':<30}{report.disagreement_over_error}")
    values = [correlation.value for correlation in report.correlations.values()]
    click.echo(f"  {'correlation of outputs':<30}{min(values):.4f} to {max(values):.4f}")
    for number, path in enumerate(report.paths, start=1):
        click.echo(f"  {f'error barrier {number} to {report.snapshots}':<30}{path.barrier}")
    for sentence in sentences:
        click.echo("\n" + fill(sentence))
    click.echo()


def _table(estimates: "dict[str, Estimate]") -> None:
    from gradiometer.exploration.ensembles.ensemble_report import SCORES

    for name, words in SCORES.items():
        click.echo(f"  {words:<30}{estimates[name]}")
