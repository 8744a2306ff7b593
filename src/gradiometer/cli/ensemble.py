"""`gradiometer ensemble`: the snapshots of a run as one model, scored against what else there is."""

import math
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gradiometer.cli.options import json_option

if TYPE_CHECKING:
    from gradiometer.exploration.growth import Size
    from gradiometer.measurement.reading import Estimate
    from gradiometer.train.ensemble import EnsembleStudy

NAMES = {
    "error": "error",
    "nll": "log-loss",
    "calibrated_nll": "log-loss, calibrated",
    "brier": "Brier score",
    "calibration_error": "calibration error",
}
ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")
NO_POSTERIOR = (
    "A cheap ensemble, not a posterior: the members are few, stand where the schedule put them, and their spread is "
    "no credible interval."
)


@click.command(epilog="Example: gradiometer ensemble runs/digits-mlp-2 --against runs/digits-mlp-1 --export digits.pt2")
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
    with the last snapshot, with the average of the weights and with other runs, each difference paired by example.
    """
    from gradiometer.errors import BadInput

    if export is not None:
        from gradiometer.exploration.export import check_file

        check_file(export)
    if not 0 < level < 1:
        raise BadInput(f"`--level` must lie between 0 and 1, got {level}: write 0.9 for 90 %.")
    from gradiometer.train.ensemble import example_inputs, study

    found = study(run, against, points=points, level=level)
    if export is not None:
        from gradiometer.exploration.export import export as write

        write(found.ensemble, example_inputs(found), export)
    if as_json:
        from gradiometer.cli.outcome import print_json

        print_json({**found.to_dict(), "sentences": sentences(found), "export": export})
        return
    _tell(found, export)


def sentences(study: "EnsembleStudy") -> list[str]:
    """What the numbers say, one thing at a time."""
    said = [_against_the_last(study)]
    said += [added_sentence(size) for size in study.sizes[1 : study.count][-1:]]
    if study.count < len(study.sizes):
        said.append(
            f"Of {len(study.sizes)} snapshots the last {study.count} are taken, as {study.validation:,} validation "
            "examples ask: the earlier ones did not help there."
        )
    if study.segments:
        said.append(_basin(study))
    if study.equivalent is not None:
        said.append(_equivalent(study.equivalent))
    return [*said, NO_POSTERIOR]


def added_sentence(size: "Size") -> str:
    """What the last member taken adds, in calibrated log-loss."""
    gain = _negative(size.added["calibrated_nll"])
    name = ORDINALS[size.count - 1] if size.count <= len(ORDINALS) else f"{size.count}th"
    verdict = "" if gain.low > 0 or gain.high < 0 else ", which cannot be told from nothing"
    article = "An" if name.startswith("e") else "A"
    return f"{article} {name} member adds {gain} of calibrated log-loss{verdict}."


def _against_the_last(study: "EnsembleStudy") -> str:
    difference = study.rivals[0].difference
    gain, error = _negative(difference["calibrated_nll"]), _negative(difference["error"])
    if gain.low > 0:
        verdict = f"is better than the last of them alone: by {gain} of calibrated log-loss"
    elif gain.high < 0:
        verdict = f"is worse than the last of them alone: by {_negative(gain)} of calibrated log-loss"
    else:
        verdict = f"cannot be told from the last of them alone: {gain} of calibrated log-loss"
    return f"The ensemble of {study.count} snapshots {verdict}, and {error} of error (above zero is better)."


def _basin(study: "EnsembleStudy") -> str:
    """Whether there is a hill on the way from the members to the last one."""
    barriers = {number: found.barrier for number, found in study.segments.items()}
    highest = max(barriers, key=lambda number: barriers[number].value)
    barrier, error = barriers[highest], study.sizes[0].scores["error"].value
    words = f"the highest barrier to the last one is {barrier} of error, from snapshot {highest}"
    if all(found.high < error / 2 for found in barriers.values()):
        return f"The snapshots did not leave one basin: {words}, against an error of {error:.3g}."
    if barrier.low > error / 2:
        return f"The snapshots lie in different basins: {words}, against an error of {error:.3g}."
    return f"Whether the snapshots share a basin cannot be told: {words}, against an error of {error:.3g}."


def _equivalent(worth: "Estimate") -> str:
    value, low, high = (
        "more than were given" if number == math.inf else f"{number:.2g}"
        for number in (worth.value, worth.low, worth.high)
    )
    return f"In calibrated log-loss it is worth this many of the other runs together: {value} [{low}, {high}]."


def _negative(estimate: "Estimate") -> "Estimate":
    """The same with its sign turned: what is gained where less is better."""
    return replace(estimate, value=-estimate.value, low=-estimate.high, high=-estimate.low, unit="")


def _tell(study: "EnsembleStudy", export: Path | None) -> None:
    """The scores, the differences, how unlike the members are, and what it comes to."""
    from gradiometer.cli.outcome import WIDTH

    chosen, predictions = study.chosen, study.chosen.predictions
    click.echo(
        f"The last {study.count} of {len(study.sizes)} snapshots, averaged, on {len(predictions.labels):,} test "
        f"examples ({study.validation:,} others chose how many, and τ = {predictions.temperature:.3g}).\n"
    )
    _table(chosen.scores)
    for rival in study.rivals:
        click.echo(f"\nless {rival.name} (below zero: the ensemble is better)")
        _table(rival.difference)
    click.echo("\nof the last m, calibrated log-loss, and what the m-th adds (above zero is better)")
    for size in study.sizes:
        added = _negative(size.added["calibrated_nll"]) if size.added else ""
        click.echo(f"  m = {size.count:<3} {size.scores['calibrated_nll']!s:<32} {added}".rstrip())
    click.echo(f"\n  {'disagreement / error':<24}{study.disagreement}")
    values = [found.value for found in study.correlations.values()]
    click.echo(f"  {'correlation of outputs':<24}{min(values):.4f} to {max(values):.4f}")
    for number, found in study.segments.items():
        click.echo(f"  {f'barrier {number} to {len(study.sizes)}':<24}{found.barrier}")
    for sentence in sentences(study):
        click.echo("\n" + textwrap.fill(sentence, WIDTH))
    if export is not None:
        click.echo(f"\nexport  {export}")


def _table(estimates: "dict[str, Estimate]") -> None:
    for name, estimate in estimates.items():
        click.echo(f"  {NAMES[name]:<24}{estimate}")
