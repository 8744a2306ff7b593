"""`gradiometer certify`: what kind of point of the training loss a run has come to, at a stated level."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gradiometer.cli.options import json_option
from gradiometer.cli.place import restored, started_again

if TYPE_CHECKING:
    from gradiometer.convergence.certificate.certificate import Certificate
    from gradiometer.measurement.estimate import Estimate
    from gradiometer.measurement.finding import Finding


@click.command(epilog="Example: gradiometer certify runs/digits-mlp-1 --exact")
@click.argument("run", type=click.Path(exists=True, file_okay=False, path_type=Path), metavar="RUN")
@click.option("--level", type=float, default=0.95, show_default=True, help="Of every interval, and of the verdict.")
@click.option("--batches", type=int, default=64, show_default=True, help="Batches the gradient is told from.")
@click.option("--exact", is_flag=True, help="Go over all training examples for the gradient instead.")
@click.option("--examples", type=int, default=2048, show_default=True, help="Examples the curvature is of, or all.")
@click.option("--tolerance", type=float, default=0.01, show_default=True,
              help="Share of the start's gradient, and of the largest curvature, that counts as none.")  # fmt: skip
@click.option("--mode", type=click.Choice(["train", "eval"]), default="train", show_default=True, help="Of the model.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the batches and the random vectors.")
@json_option
def certify(
    run: Path,
    level: float,
    batches: int,
    exact: bool,
    examples: int,
    tolerance: float,
    mode: str,
    seed: int,
    as_json: bool,
) -> None:
    """A minimum, a saddle, or not stationary: what RUN has come to at its last checkpoint, at a stated level.

    The gradient of the training loss against the one at the start, from batches that are held against each other or,
    exactly, from all examples; and the lowest curvature against the largest. The run keeps the certificate and shows
    it on its page.
    """
    certificate = _certified(run, level, batches, exact, examples, tolerance, mode, seed)
    finding = certificate.finding()
    page = _kept(run, certificate)
    if as_json:
        from gradiometer.cli.outcome import print_json

        estimates = {name: estimate.to_dict() for name, estimate in certificate.estimates.items()}
        print_json(
            {
                "run": str(run),
                "verdict": str(certificate.verdict),
                **asdict(certificate),
                "estimates": estimates,
                "finding": finding.to_dict(),
                "page": page,
            }
        )
        return
    _tell(certificate, finding, page)


def _certified(
    path: Path, level: float, batches: int, exact: bool, examples: int, tolerance: float, mode: str, seed: int
) -> "Certificate":
    """The gradient where the run started, then the certificate where it stands."""
    import gradiometer.convergence.certificate.certify as measuring
    from gradiometer.convergence.certificate.certificate import refuse_unless_shares

    refuse_unless_shares(tolerance, level)
    training, run = started_again(path)
    training.model.train(mode == "train")
    settings = run.configuration
    start = measuring.gradient_squared(
        training.objective,
        training.data,
        exact=exact,
        batches=batches,
        batch_size=settings.batch_size,
        weight_decay=settings.weight_decay,
        level=level,
        seed=seed,
    )[0]
    restored(training, path)
    training.model.train(mode == "train")
    return measuring.certify(
        training.objective,
        training.data,
        start,
        exact=exact,
        batches=batches,
        batch_size=settings.batch_size,
        examples=examples,
        weight_decay=settings.weight_decay,
        tolerance=tolerance,
        level=level,
        step=training.step,
        seed=seed + 1,
    )


def _kept(path: Path, certificate: "Certificate") -> str:
    """Write the certificate into the run, and its page anew. Returns where the page is."""
    from gradiometer.diagnosis import diagnose
    from gradiometer.report.page.page import write_page
    from gradiometer.run.artifacts import save_artifact
    from gradiometer.run.reader import Run

    run = Run.open(path)
    save_artifact(run, certificate)
    return str(write_page(run, diagnose(run)))


def _tell(certificate: "Certificate", finding: "Finding", page: str) -> None:
    """The numbers, the verdict, and where the page is."""
    from gradiometer.cli.outcome import filled, tell_finding

    click.echo(f"The training loss at step {certificate.step:,}, in {certificate.mode} mode:\n")
    words = {
        "gradient_norm": "‖g‖",
        "relative_gradient_norm": "‖g‖ / start",
        "lowest_curvature": "λ_min",
        "lowest_curvature_share": "λ_min / λ_max",
    }
    for name, estimate in certificate.estimates.items():
        if name not in words:
            continue
        click.echo(filled(f"{words[name]:<15}{estimate}   ({_how(estimate)})", indent=2, hanging=15))
    covered = f"The gradient is of {certificate.gradients:,} of {certificate.of:,} examples"
    click.echo("\n" + filled(f"{covered}, the curvature of {certificate.curved:,}.", indent=2))
    tell_finding(finding, f"{certificate.verdict}, at {certificate.level:.0%}")
    click.echo(f"\npage  {page}")


def _how(estimate: "Estimate") -> str:
    return "exact" if estimate.method == "exact" else f"{estimate.level:.0%}, {estimate.method}"
