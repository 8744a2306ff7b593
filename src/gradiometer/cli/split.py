"""`gradiometer split`: many short runs or one long run, for the best ensemble that a budget can buy."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gradiometer.cli.options import configuration_options, given_by, json_option, out_option, pool_option
from gradiometer.errors import BadArgument
from gradiometer.run.configuration import Configuration

if TYPE_CHECKING:
    from gradiometer.problems.problem import Problem
    from gradiometer.tuning.split import BudgetSplit

LEFT_OUT = (
    *("problem", "snapshots", "cool", "cool_budget", "guard", "fork_budget", "parts", "probe", "budget", "gauges"),
    *("check_edge", "check_endpoint", "every", "checkpoint_seconds", "keep_checkpoints", "checkpoint_at"),
)
"""Settings of a run that are not those of a member."""


@click.command(epilog="Example: gradiometer split digits --model cnn --epochs 20 --lr 0.1 --momentum 0.9")
@click.argument("problem", required=False)
@click.option("--config", "file", type=click.Path(path_type=Path),
              help="TOML file with the same names as the flags. Flags win over it.")  # fmt: skip
@click.option("--members", default="1,2,4,8", show_default=True, metavar="NUMBERS",
              help="Comma-separated numbers of members to choose from.")  # fmt: skip
@click.option("--score", type=click.Choice(["brier", "nll", "calibrated_nll"]), default="brier", show_default=True,
              help="The score that is compared.")  # fmt: skip
@click.option("--export", type=click.Path(dir_okay=False, path_type=Path), default=None,
              help="Write all trained members together, weighted, to this .pt2 or .onnx file.")  # fmt: skip
@configuration_options(*LEFT_OUT)
@pool_option
@out_option
@json_option
def split(
    problem: str | None,
    file: Path | None,
    members: str,
    score: str,
    export: Path | None,
    pool: str,
    out: Path,
    as_json: bool,
    **flags: Any,
) -> None:
    """Choose how to split the training of PROBLEM into the members of an ensemble: one long run, or short ones.

    A race trains the full run and a pair of members of other splits, forecasts each ensemble from its pair, and trains
    the other members of the best split only. It costs 1.5 to 3.25 times the training. Half of the test examples choose,
    and the other half is scored. The schedule is cosine if none is given, stretched to the length of each member.

    If the command is stopped, the same command continues from the finished members.
    """
    if export is not None:
        from gradiometer.exploration.ensembles.export import check_file

        check_file(export)
    given = given_by(file, {"problem": problem, **flags})
    cosine = {} if given.get("optimizer") == "schedulefree" else {"schedule": "cosine"}
    configuration = Configuration.from_mapping(cosine | given, "")
    source, found = _raced(configuration, _counts(members), score, out, pool, quiet=as_json)
    if as_json:
        from gradiometer.cli.outcome import printed_json

        with printed_json({**found.to_dict(), "export": None}) as result:
            result["export"] = None if export is None else str(_export(source, found, export))
        return
    _print(found)
    if export is not None:
        click.echo(f"\nexport  {_export(source, found, export)}")


def _counts(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise BadArgument(f"`--members` must be whole numbers with commas between them, got {text!r}.") from None


def _raced(
    configuration: Configuration, counts: list[int], score: str, out: Path, pool: str, *, quiet: bool
) -> "tuple[Problem, BudgetSplit]":
    from gradiometer.cli.progress import counting
    from gradiometer.errors import Interrupted
    from gradiometer.problems.registry import load
    from gradiometer.tuning.split_budget import split_problem

    problem = load(
        configuration.problem, model=configuration.model, data_dir=configuration.data_dir, seed=configuration.seed
    )
    try:
        with counting("members", quiet=quiet) as counter:
            return problem, split_problem(
                problem,
                configuration,
                out,
                members=counts,
                score=score,
                pool=pool,
                progress=lambda name, done: counter.line(f"{done} members, now {name}"),
            )
    except KeyboardInterrupt:
        raise Interrupted("stopped: the same command continues from the members that are finished.") from None


def _export(problem: "Problem", found: "BudgetSplit", path: Path) -> Path:
    from gradiometer.exploration.ensembles.export import export
    from gradiometer.train.ensemble import example_inputs

    ensemble = found.ensemble
    return export(ensemble, example_inputs(problem, ensemble), path)


def _print(found: "BudgetSplit") -> None:
    """The splits, the scores, and the conclusions."""
    from gradiometer.cli.outcome import filled
    from gradiometer.report.sections.ensemble import SCORES

    label = SCORES[found.score]
    click.echo(filled(f"Forecast of the {label} of each split, from {found.choosing:,} examples that choose:") + "\n")
    for each in found.splits:
        trained = f"{each.trained} of {each.members} trained"
        click.echo(f"  {each.words:<26}{trained:<20}{each.forecast}")
    click.echo(f"\n{'':<32}{found.chosen.words:<28}all members together")
    for name, words in SCORES.items():
        click.echo(f"  {words:<30}{found.scores[name]!s:<28}{found.together[name]}")
    click.echo("")
    for sentence in found.sentences:
        click.echo(filled(sentence))
