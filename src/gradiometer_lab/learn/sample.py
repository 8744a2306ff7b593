"""`gradiometer learn sample`: draw from a posterior, and measure the temperature of the draws."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from gradiometer.cli.options import SEED, configuration_options, json_option, pool_option, targets
from gradiometer.cli.outcome import fill, printed_json
from gradiometer.cli.place import is_run, load_last_checkpoint, training_at_start
from gradiometer.errors import BadArgument
from gradiometer.measurement.estimate import significant
from gradiometer.storage.disk import writing

if TYPE_CHECKING:
    from torch import Tensor, nn

    from gradiometer.measurement.batch import Batch
    from gradiometer.problems import Examples, Problem
    from gradiometer_lab.chains.engines import Function
    from gradiometer_lab.chains.sampling import Sampled

# The problem whose posterior is known to all digits.
LINEAR = "linear-regression"


# What `--set` gives, with the default of each.
OTHERS = {"model": None, "data_dir": None, "momentum": None, "weight_decay": None, "level": 0.9}


class ChainStart(NamedTuple):
    """The problem and the models to start from, and the settings that flags replace."""

    name: str
    problem: "Problem"
    model: "Callable[[], nn.Module]"
    defaults: dict[str, Any]


@click.command(
    epilog=(
        "Example: gradiometer learn sample logistic-regression --sampler sghmc --lr 0.1 --steps "
        "20000"
    )
)
@click.argument("target", metavar="RUN|PROBLEM", shell_complete=targets)
@click.option(
    "--sampler",
    "kind",
    type=click.Choice(["sgld", "sghmc", "sgnht"]),
    default="sgld",
    show_default=True,
)
@click.option(
    "--temperature",
    type=float,
    default=1.0,
    show_default=True,
    help="T in posterior units: U = N × loss.",
)
@click.option(
    "--lr",
    "learning_rate",
    type=float,
    help="Learning rate, for the mean loss. [0.05, or the run's]",
)
@click.option("-b", "--batch-size", type=int, help="Batch size. [32, or the run's]")
@click.option(
    "--steps", type=int, default=5000, show_default=True, help="Measured steps of each chain."
)
@click.option(
    "--burn-in", type=int, default=2000, show_default=True, help="Steps before the measurement."
)
@click.option("--every", type=int, default=10, show_default=True, help="Steps between two draws.")
@click.option(
    "--chains",
    type=click.IntRange(1, 10_000),
    default=1,
    show_default=True,
    help="Independent chains. From 2 chains on, R-hat is computed.",
)
@click.option(
    "--png",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for pictures of the chains.",
)
@click.option(
    "--seed",
    type=SEED,
    default=0,
    show_default=True,
    help="Seed of the start, the batches and the noise.",
)
@configuration_options()
@pool_option
@json_option
def sample(
    target: str,
    kind: str,
    chains: int,
    png: Path | None,
    settings: dict[str, Any],
    pool: str,
    as_json: bool,
    **flags: Any,
) -> None:
    """Draw from exp(−U/T) with U = N × the mean loss, from the last checkpoint of RUN or the start
    of PROBLEM.

    Prints the temperature asked for and the one measured, the heat of SGD itself and the injected
    temperature, and the posterior mean and spread of losses and accuracy, all with intervals. If
    SGD itself is hotter than the temperature asked for, it stops and suggests a learning rate or a
    batch size. Several chains have different seeds and starts (chains of a RUN all start from its
    checkpoint); R-hat and effective sample sizes show if they have mixed. --set takes model and
    data_dir of a PROBLEM, the momentum of sghmc and sgnht (0.9 by default), weight_decay λ of a
    Gaussian prior of precision Nλ, and the level of the intervals.
    """
    import torch

    from gradiometer.arguments import check_level
    from gradiometer.cli.progress import working
    from gradiometer_lab.chains.sampling import agreement
    from gradiometer_lab.chains.sampling import sample as run_sampler
    from gradiometer_lab.samplers import langevin

    torch.set_num_threads(1)
    for name in settings:
        if name not in OTHERS:
            raise BadArgument(
                f"`--set` {name} does not change a sample: it takes {', '.join(OTHERS)}."
            )
    settings = flags | OTHERS | settings
    check_level(settings["level"])
    if png is not None and chains < 2:
        raise BadArgument("`--png` compares chains with each other: add --chains 4.")
    start = (
        _run_start(Path(target), settings) if is_run(target) else _problem_start(target, settings)
    )
    given = start.defaults | {name: value for name, value in settings.items() if value is not None}
    problem = start.problem
    own = {
        "lr": given["learning_rate"],
        "examples": len(problem.train),
        "burn_in": given["burn_in"] // 2,
    }
    for name in ("temperature", "weight_decay", "batch_size", "momentum"):
        own[name] = given.get(name)
    with working("sampling", quiet=as_json):
        found = run_sampler(
            start.model,
            problem.loss,
            problem.train,
            lambda parameters, seed: getattr(langevin, kind.upper())(parameters, seed=seed, **own),
            seeds=[given["seed"] + chain for chain in range(chains)],
            watch=_watch(problem),
            known=_known_values(problem, given),
            pool=pool,
            **{name: given[name] for name in ("batch_size", "steps", "burn_in", "every", "level")},
        )
    mixed = agreement(found, settings["level"])
    if as_json:
        several = {
            "chains": [each.to_dict() for each in found],
            "mixing": [each.to_dict() for each in mixed],
        }
        first = found[0].to_dict() | (several if chains > 1 else {})
        with printed_json({"target": target, "sampler": kind, **first, "pictures": []}) as result:
            result["pictures"] = [] if png is None else _pictures(found, settings, png)
        return
    for chain, each in enumerate(found):
        name = start.name if chains == 1 else f"{start.name}, chain {chain}"
        _print(
            f"{kind.upper()} on {name}, {settings['steps']:,} steps after {settings['burn_in']:,}.",
            each,
        )
    for function in mixed:
        click.echo(fill(str(function)) + "\n")
    for picture in [] if png is None else _pictures(found, settings, png):
        click.echo(picture)


def _problem_start(name: str, settings: dict[str, Any]) -> ChainStart:
    from gradiometer.problems.problem import new_model
    from gradiometer.problems.registry import load

    problem = load(
        name, model=settings["model"], data_dir=settings["data_dir"], seed=settings["seed"]
    )
    defaults = {
        "learning_rate": 0.05,
        "batch_size": min(32, len(problem.train)),
        "weight_decay": 0.0,
    }
    return ChainStart(
        f"{problem.name} ({problem.model_name}) from its start",
        problem,
        lambda: new_model(problem),
        defaults,
    )


def _run_start(path: Path, settings: dict[str, Any]) -> ChainStart:
    import copy

    from gradiometer.train.training import rate_ahead

    for name in ("model", "data_dir"):
        if settings[name] is not None:
            raise BadArgument(f"`--set` {name} is the run's own: leave it out, or name a problem.")
    training, run = training_at_start(path, "learn sample")
    load_last_checkpoint(training, path)
    configuration = training.configuration
    defaults = {
        "learning_rate": rate_ahead(training),
        "batch_size": configuration.batch_size,
        "weight_decay": configuration.weight_decay,
    }
    name = f"{run.name} from step {training.step:,}"
    return ChainStart(name, training.problem, lambda: copy.deepcopy(training.model), defaults)


def _watch(problem: "Problem") -> "dict[str, tuple[Function, Batch]]":
    """The losses and the accuracy, each with its fixed examples."""
    import torch

    from gradiometer_lab.closed_forms.linear_regression import SLOPES

    def first(examples: "Examples") -> "Batch":
        # The losses and the accuracy are drawn on at most 2,000 examples.
        return examples.batch(torch.arange(min(len(examples), 2000)))

    watch: dict[str, tuple[Function, Batch]] = {"train_loss": (problem.loss, first(problem.train))}
    if problem.test is not None:
        test = first(problem.test)
        watch["test_loss"] = problem.loss, test
        if problem.correct is not None:
            watch["test_accuracy"] = problem.correct, test
    if problem.name == LINEAR:
        for place in range(len(SLOPES)):
            watch[f"slope_{place + 1}"] = partial(_slope, place), watch["train_loss"][1]
    return watch


def _slope(place: int, model: "nn.Module", _: "Batch") -> "Tensor":
    return next(model.parameters())[place]


def _known_values(
    problem: "Problem", given: dict[str, Any]
) -> dict[str, float | tuple[float, float]]:
    """Exact means, of slopes also standard deviations, if the posterior is known and has no further
    prior."""
    import numpy as np

    from gradiometer_lab.closed_forms import linear_regression, logistic_regression

    temperature = given["temperature"]
    if given["weight_decay"] or not temperature > 0:
        return {}
    if problem.name == LINEAR:
        posterior = linear_regression.known(given["seed"])
        spreads = np.sqrt(np.diag(posterior.covariance(temperature)))
        slopes = zip(posterior.mean.tolist(), spreads.tolist(), strict=True)
        return {
            "train_loss": posterior.mean_loss(temperature),
            **{f"slope_{place}": each for place, each in enumerate(slopes, start=1)},
        }
    if problem.name == "logistic-regression":
        return {"train_loss": logistic_regression.known()[0].moments(temperature).mean_loss}
    return {}


def _pictures(found: "Sequence[Sampled]", settings: dict[str, Any], folder: Path) -> list[str]:
    """Draw three pictures of every function. Returns their paths."""
    import numpy as np

    from gradiometer.report.charts.charts import save_png
    from gradiometer_lab.chains.mixing_charts import (
        autocorrelation_chart,
        rank_chart,
        trace_chart,
    )

    with writing(folder, "choose another folder"):
        folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name in found[0].draws:
        draws, label = (
            np.stack([each.draws[name] for each in found], axis=1),
            name.replace("_", " "),
        )
        steps = settings["burn_in"] + settings["every"] * np.arange(len(draws))
        charts = (
            trace_chart(label, draws, steps),
            rank_chart(label, draws),
            autocorrelation_chart(label, draws),
        )
        for kind, chart in zip(("trace", "ranks", "autocorrelation"), charts, strict=True):
            with writing(folder, "choose another folder"):
                paths.append(
                    str(save_png(chart, folder / f"{name}_{kind}.png", f"{label}: {kind}"))
                )
    return paths


def _print(title: str, found: "Sampled") -> None:
    """The temperatures, the moments and the verdict of one chain."""

    temperatures = {
        "asked": significant(found.asked),
        "measured": found.measured,
        "SGD itself": found.own,
        "mini-batch": found.minibatch,
        "injected": significant(found.injected),
        **found.shape.named,
    }
    click.echo(fill(title) + "\n")
    for label, value in temperatures.items():
        click.echo(f"  T {label:<22}{value}")
    click.echo("")
    for function, moment in found.moments.items():
        exact = [
            f"{value:.4g}" for value in (moment.known, moment.known_spread) if value is not None
        ]
        known = f"   known: {', '.join(exact)}" if exact else ""
        click.echo(fill(f"{function:<17}{moment}{known}", indent=2, hanging=17))
    click.echo("\n" + fill(found.verdict) + "\n")
