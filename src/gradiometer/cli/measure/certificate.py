"""`gradiometer measure certificate`: is the last checkpoint of a run a minimum, a saddle, or not
stationary?"""

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gradiometer.cli.options import json_option, runs
from gradiometer.cli.outcome import fill, print_outcome, tell_finding
from gradiometer.cli.place import load_last_checkpoint, training_at_start
from gradiometer.errors import BadArgument

if TYPE_CHECKING:
    from gradiometer.convergence.certificate.certificate import Certificate

SYMBOLS = {
    "gradient_norm": "‖g‖",
    "relative_gradient_norm": "‖g‖ / start",
    "lowest_curvature": "λ_min",
    "lowest_curvature_share": "λ_min / λ_max",
}


@click.command(epilog="Example: gradiometer measure certificate runs/digits-mlp-1 --batches all")
@click.argument(
    "run",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="RUN",
    shell_complete=runs,
)
@click.option("--level", type=float, default=0.95, show_default=True, help="Confidence level.")
@click.option(
    "--batches",
    default="64",
    show_default=True,
    metavar="COUNT|all",
    help="Number of batches for the gradient, or all training examples.",
)
@click.option(
    "--examples",
    type=int,
    default=2048,
    show_default=True,
    help="Up to this many examples for the curvature.",
)
@click.option(
    "--tolerance",
    type=float,
    default=0.01,
    show_default=True,
    help=(
        "Gradients below this share of the one at the start count as zero, and so do curvatures "
        "below this share of the largest one."
    ),
)
@click.option(
    "--mode",
    type=click.Choice(["train", "eval"]),
    default="train",
    show_default=True,
    help="Mode of the model.",
)
@json_option
def certificate(
    run: Path, level: float, batches: str, examples: int, tolerance: float, mode: str, as_json: bool
) -> None:
    """Decide if the last checkpoint of RUN is a minimum, a saddle, or not a stationary point of the
    training loss.

    Compares the gradient of the training loss with the one at the start of training, and the lowest
    curvature with the largest. The certificate is saved in the run and shown on its page.
    """
    from gradiometer.cli.progress import working
    from gradiometer.report.page.page import keep
    from gradiometer.run.reader import Run
    from gradiometer.verdict.words.say import as_dict

    with working("certifying", quiet=as_json):
        found = _certify(run, examples, tolerance, mode, level, batches)
    print_outcome(
        lambda: {
            "run": str(run),
            "verdict": str(found.verdict),
            **asdict(found),
            "estimates": {name: estimate.to_dict() for name, estimate in found.estimates.items()},
            "finding": as_dict(found.finding()),
        },
        partial(_tell, found),
        {"page": lambda: keep(Run.reopen(run), found)},
        as_json=as_json,
    )


def _certify(
    path: Path, examples: int, tolerance: float, mode: str, level: float, batches: str
) -> "Certificate":
    """Measure the gradient at the start of the run, then the certificate at its last checkpoint."""
    import gradiometer.convergence.certificate.certifying as measuring
    from gradiometer.arguments import check_level

    check_level(tolerance, "tolerance")
    check_level(level)
    training, _ = training_at_start(path, "measure certificate")
    settings = training.configuration
    gradient: dict[str, Any] = {
        "level": level,
        "batch_size": settings.batch_size,
        "weight_decay": settings.penalty,
        "exact": batches == "all",
    }
    if batches != "all":
        try:
            gradient["batches"] = int(batches)
        except ValueError:
            raise BadArgument(
                f"`--batches` must be a whole number, or all, got {batches!r}."
            ) from None
    objective, data = training.objective, training.data
    training.model.train(mode == "train")
    start, _ = measuring.gradient_squared(objective, data, seed=0, **gradient)
    load_last_checkpoint(training, path)
    training.model.train(mode == "train")
    return measuring.certify(
        objective,
        data,
        start,
        examples=examples,
        tolerance=tolerance,
        step=training.step,
        seed=1,
        **gradient,
    )


def _tell(certificate: "Certificate") -> None:
    """Print the estimates, the number of examples behind them, and the finding."""
    click.echo(f"The training loss at step {certificate.step:,}, in {certificate.mode} mode:\n")
    for name, symbol in SYMBOLS.items():
        estimate = certificate.estimates[name]
        level = "" if estimate.method == "exact" else f"{estimate.level:.0%}, "
        line = f"{symbol:<15}{estimate}   ({level}{estimate.method})"
        click.echo(fill(line, indent=2, hanging=15))
    covered = f"The gradient is from {certificate.gradients:,} of {certificate.of:,} examples"
    click.echo("\n" + fill(f"{covered}, the curvature from {certificate.curved:,}.", indent=2))
    tell_finding(certificate.finding(), f"{certificate.verdict}, at {certificate.level:.0%}")
    click.echo()
