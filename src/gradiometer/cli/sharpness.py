"""`gradiometer sharpness`: the curvature of a run or a problem, and what it says about the learning rate."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gradiometer.cli.options import json_option
from gradiometer.cli.place import Place, is_run, restored, started_again

if TYPE_CHECKING:
    from gradiometer.drift.curvature import Curvature
    from gradiometer.drift.survey import Survey
    from gradiometer.measurement.finding import Finding
    from gradiometer.run.reader import Run
    from gradiometer.train.training import Training

EXAMPLES = 1024
"""Examples looked at where none are asked for, or all where there are fewer."""

MOST = 100
"""Largest eigenvalues at most: each takes several of the 400 products there are."""

LEVEL = 0.9


@click.command(epilog="Example: gradiometer sharpness digits --steps 200 --lr 0.5 --png density.png")
@click.argument("target", metavar="RUN|PROBLEM")
@click.option("--model", default=None, help="One of the problem's models.")
@click.option("--data-dir", default=None, help="Where data on disk lies.")
@click.option("--steps", type=click.IntRange(min=0), default=0, help="Train a PROBLEM for so many steps first.")
@click.option("--lr", "learning_rate", type=float, default=None, help="Learning rate of these steps, and spoken of.")
@click.option("-b", "--batch-size", type=int, default=None, help="Batch size of these steps.")
@click.option("--examples", type=int, default=None, help="Size of a fixed subsample of the training set. [1024]")
@click.option("--top", type=click.IntRange(1, MOST), default=5, show_default=True, help="Largest eigenvalues wanted.")
@click.option(
    "--probes", type=click.IntRange(min=4), default=8, show_default=True, help="Random vectors for trace and density."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the start, the subsample and the vectors.")
@click.option("--mode", type=click.Choice(["train", "eval"]), default="train", show_default=True, help="Of the model.")
@click.option("--png", type=click.Path(dir_okay=False, path_type=Path), default=None, help="Draw the density there.")
@json_option
def sharpness(target: str, examples: int | None, mode: str, png: Path | None, as_json: bool, **settings: Any) -> None:
    """Survey the curvature of RUN at its last checkpoint, or of PROBLEM at its start.

    Largest and smallest eigenvalues of the Hessian, its trace, the curvature along the gradient and the density of
    all curvatures, each with its error, and what they say about the learning rate. A run keeps the survey and
    shows it on its page.
    """
    from gradiometer.errors import BadArgument

    if png is not None and not png.parent.is_dir():
        raise BadArgument(f"`--png` {png}: the folder {png.parent} does not exist.")
    seed, top, probes = (settings.pop(name) for name in ("seed", "top", "probes"))
    place = _place(target, seed, settings)
    place.training.model.train(mode == "train")
    curvature = _curvature(place.training, examples, seed)
    found = _survey(curvature, place.training, top, probes)
    finding = _finding(found, place.training)
    page = _kept(place.run, found)
    if png is not None:
        _draw(found, place.training, png)
    if as_json:
        from gradiometer.cli.outcome import print_json

        print_json({"target": target, **asdict(found), "finding": finding.to_dict(), "page": page, "png": png})
        return
    _tell(found, finding, page, png)


def _place(target: str, seed: int, settings: dict[str, Any]) -> Place:
    """The last checkpoint of a run, or a problem at its start or a few steps on."""
    from gradiometer.errors import BadArgument

    if not is_run(target):
        return Place(_started(target, seed, settings))
    given = [name for name, value in settings.items() if value]
    if given:
        flag = {"learning_rate": "lr"}.get(given[0], given[0]).replace("_", "-")
        raise BadArgument(f"`--{flag}` is for a problem: the run {target} has its own; leave it out.")
    training, run = started_again(Path(target))
    restored(training, Path(target))
    return Place(training, run)


def _started(problem: str, seed: int, settings: dict[str, Any]) -> "Training":
    from gradiometer.errors import Diverged
    from gradiometer.problems.registry import load
    from gradiometer.run.budget import Budget
    from gradiometer.run.configuration import Configuration
    from gradiometer.train.training import Training

    steps = settings.pop("steps")
    given = {name: value for name, value in settings.items() if value is not None}
    configuration = Configuration(problem=problem, seed=seed, **given)
    loaded = load(problem, model=configuration.model, data_dir=configuration.data_dir, seed=seed)
    training = Training(loaded, configuration, Budget(0.0))
    while training.step < steps:
        loss, _ = training.backward(training.batch(), measured=False)
        if (reason := training.divergence(loss)) is not None:
            raise Diverged(f"training diverged at step {training.step:,}: {reason}; try a smaller --lr.")
        training.update()
    return training


def _curvature(training: "Training", examples: int | None, seed: int) -> "Curvature":
    """Of all training examples, or of a fixed random subsample."""
    import torch

    from gradiometer.drift.curvature import AT_ONCE, Curvature
    from gradiometer.errors import BadArgument

    available = len(training.data)
    wanted = min(EXAMPLES, available) if examples is None else examples
    if not 1 <= wanted <= available:
        raise BadArgument(f"`--examples` must lie between 1 and the {available:,} training examples, got {wanted:,}.")
    order = torch.arange(available)
    if wanted < available:
        order = torch.randperm(available, generator=torch.Generator().manual_seed(seed))[:wanted]
    batches = [training.data.batch(part) for part in order.split(AT_ONCE)]
    return Curvature(training.objective, batches, seed=seed)


def _survey(curvature: "Curvature", training: "Training", top: int, probes: int) -> "Survey":
    from gradiometer.drift.survey import survey

    return survey(curvature, of=len(training.data), step=training.step, top=top, probes=probes, level=LEVEL)


def _finding(found: "Survey", training: "Training") -> "Finding":
    from gradiometer.drift.stability import Momentum, edge_sentence

    settings = training.configuration
    kind = Momentum(settings.momentum, settings.nesterov)
    return edge_sentence(found.sharpness, _rate(training), kind, weight_decay=settings.weight_decay)


def _rate(training: "Training") -> float:
    """η of the step to come; at the end of a schedule that ends at zero, the one at its start."""
    return training.learning_rate if training.learning_rate > 0 else training.configuration.learning_rate


def _kept(run: "Run | None", found: "Survey") -> str | None:
    """Write the survey into the run, and its page anew. Returns where the page is."""
    if run is None:
        return None
    from gradiometer.diagnosis import diagnose
    from gradiometer.report.page.page import write_page
    from gradiometer.run.artifacts import save_artifact

    save_artifact(run, found)
    return str(write_page(run, diagnose(run)))


def _draw(found: "Survey", training: "Training", png: Path) -> None:
    from gradiometer.drift.stability import Momentum, stability_limit
    from gradiometer.report.charts.charts import save_png
    from gradiometer.report.sections.drift import density_figure

    kind = Momentum(training.configuration.momentum, training.configuration.nesterov)
    figure = density_figure(found, (kind.formula, stability_limit(_rate(training), kind)))
    save_png(figure.chart, png, figure.title)


def _tell(found: "Survey", finding: "Finding", page: str | None, png: Path | None) -> None:
    """The numbers, the sentence about the learning rate, and where the pictures are."""
    from gradiometer.cli.outcome import filled, tell_finding
    from gradiometer.measurement.estimate import counted

    dimension = counted(found.dimension, "parameter")
    click.echo(filled(f"The Hessian of {found.what}, at step {found.step:,}: {dimension}.") + "\n")
    rows = [(f"λ_{place}", estimate) for place, estimate in enumerate(found.largest, start=1)]
    rows += [
        ("λ_min", found.smallest[0]),
        ("trace", found.trace),
        ("gᵀHg/‖g‖²", found.along_gradient),
        ("curving down", found.negative_share),
    ]
    for name, estimate in rows:
        how = "exact for these examples" if estimate.method == "exact" else estimate.method
        click.echo(filled(f"{name:<13}{estimate}   ({how})", indent=2, hanging=13))
    if not found.converged:
        click.echo(
            "\n"
            + filled("Lanczos ran out of products before every residual was small: the bounds say how far off it is.")
        )
    tell_finding(finding)
    click.echo(f"\n{found.products:,} Hessian products.")
    for label, path in (("page", page), ("png", png)):
        if path is not None:
            click.echo(f"{label}  {path}")
