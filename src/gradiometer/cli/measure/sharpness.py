"""`gradiometer measure sharpness`: the curvature of a run or a problem, and the edge of its
learning rate."""

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gradiometer.cli.options import SEED, OutFile, configuration_options, json_option, targets
from gradiometer.cli.outcome import fill, print_outcome, tell_finding
from gradiometer.cli.place import is_run, load_last_checkpoint, training_at_start
from gradiometer.errors import BadArgument
from gradiometer.measurement.estimate import counted
from gradiometer.run.configuration import Configuration
from gradiometer.run.rules import MOST_STEPS
from gradiometer.storage.disk import writing

if TYPE_CHECKING:
    from gradiometer.drift.curvature_survey import Survey
    from gradiometer.measurement.finding import Finding
    from gradiometer.run.reader import Run
    from gradiometer.train.training import Training


@click.command(
    epilog="Example: gradiometer measure sharpness digits --set learning_rate=0.5 --png density.png"
)
@click.argument("target", metavar="RUN|PROBLEM", shell_complete=targets)
@click.option(
    "--steps",
    type=click.IntRange(0, MOST_STEPS - 1),
    default=0,
    help="Steps to train a PROBLEM first.",
)
@click.option(
    "--examples",
    type=int,
    default=None,
    help="Size of a fixed subsample of the training set. [1024]",
)
@click.option(
    "--top",
    type=click.IntRange(1, 100),  # each needs several products, and Lanczos stops after 400
    default=5,
    show_default=True,
    help="Number of top eigenvalues.",
)
@click.option(
    "--probes",
    type=click.IntRange(4, 10_000),
    default=8,
    show_default=True,
    help="Random vectors for trace and density.",
)
@click.option(
    "--seed",
    type=SEED,
    default=0,
    show_default=True,
    help="Seed for model, subsample and random vectors.",
)
@click.option(
    "--mode",
    type=click.Choice(["train", "eval"]),
    default="train",
    show_default=True,
    help="Model mode.",
)
@click.option(
    "--png",
    type=OutFile(in_folder=True),
    default=None,
    help="Save the density plot.",
)
@configuration_options()
@json_option
def sharpness(
    target: str,
    steps: int,
    examples: int | None,
    top: int,
    probes: int,
    seed: int,
    mode: str,
    png: Path | None,
    as_json: bool,
    settings: dict[str, Any],
) -> None:
    """Measure the curvature of a RUN at its last checkpoint, or of a PROBLEM at its start, with the
    settings of --set.

    Prints the largest eigenvalues of the Hessian, the smallest, its trace, the curvature along the
    gradient and the share of negative curvature, each with its error, and compares the learning
    rate with the edge of stability. The result is saved in the run and shown on its page.
    """
    from gradiometer.cli.progress import working
    from gradiometer.drift.curvature import survey_examples
    from gradiometer.report.page.page import keep
    from gradiometer.train.training import sharpness_finding
    from gradiometer.verdict.words.say import as_dict

    training, run = _training(target, steps, seed, settings)
    training.model.train(mode == "train")
    with working("measuring the curvature", quiet=as_json):
        found = survey_examples(
            training.objective,
            training.data,
            examples,
            step=training.step,
            top=top,
            probes=probes,
            seed=seed,
        )
    finding = sharpness_finding(training, found)
    print_outcome(
        lambda: {"target": target, **asdict(found), "finding": as_dict(finding)},
        partial(_tell, found, finding),
        {
            "page": lambda: None if run is None else keep(run, found),
            "png": lambda: None if png is None else _draw(found, training, png),
        },
        as_json=as_json,
    )


def _training(
    target: str, steps: int, seed: int, settings: dict[str, Any]
) -> "tuple[Training, Run | None]":
    """A run at its last checkpoint, or a problem after `steps` steps."""

    if is_run(target):
        if steps or settings:
            flag = "--steps" if steps else f"--set {next(iter(settings))}"
            raise BadArgument(
                f"`{flag}` is only for a problem: leave it out, the run {target} has its own value."
            )
        training, run = training_at_start(Path(target), "measure sharpness")
        load_last_checkpoint(training, Path(target))
        return training, run
    from gradiometer.train.training import advance, start_training

    training = start_training(
        Configuration.from_mapping({"seed": seed, **settings, "problem": target}, "")
    )
    advance(training, steps)
    return training, None


def _draw(found: "Survey", training: "Training", png: Path) -> Path:
    from gradiometer.drift.stability import MomentumRule, stability_limit
    from gradiometer.report.charts.charts import save_png
    from gradiometer.report.sections.drift import density_figure
    from gradiometer.train.training import rate_ahead

    settings = training.configuration
    kind = MomentumRule(settings.momentum, settings.nesterov)
    edge = (
        (kind.formula, stability_limit(rate_ahead(training), kind))
        if settings.optimizer == "sgd"
        else None
    )
    figure = density_figure(found, edge)
    with writing(png, "choose another file"):
        return save_png(figure.chart, png, figure.title)


def _tell(found: "Survey", finding: "Finding") -> None:
    """Print the numbers and the finding about the learning rate."""
    dimension = counted(found.dimension, "parameter")
    click.echo(fill(f"The Hessian of {found.what}, at step {found.step:,}: {dimension}.") + "\n")
    rows = [(f"λ_{place}", estimate) for place, estimate in enumerate(found.largest, start=1)]
    rows += [
        ("λ_min", found.smallest[0]),
        ("trace", found.trace),
        ("gᵀHg/‖g‖²", found.along_gradient),
        ("curving down", found.negative_share),
    ]
    for name, estimate in rows:
        how = "exact for these examples" if estimate.method == "exact" else estimate.method
        click.echo(fill(f"{name:<13}{estimate}   ({how})", indent=2, hanging=13))
    if not found.converged:
        sentence = (
            "Lanczos reached its limit of products before every residual was small; the bounds "
            "show the error."
        )
        click.echo("\n" + fill(sentence))
    tell_finding(finding)
    click.echo(f"\n{found.products:,} Hessian products.")
