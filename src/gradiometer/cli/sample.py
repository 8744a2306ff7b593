"""`gradiometer sample`: draws from a posterior, and the temperature they really have."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gradiometer.cli.options import json_option
from gradiometer.cli.place import is_run, load_last_checkpoint, training_at_start

if TYPE_CHECKING:
    from torch import nn

    from gradiometer.exploration.chains.mixing import Mixing
    from gradiometer.exploration.samplers.sampler import Sampler
    from gradiometer.exploration.samplers.sampling import Sampled
    from gradiometer.measurement.objective import Objective
    from gradiometer.problems.examples import Examples
    from gradiometer.problems.problem import Problem

WATCHED = 2000
"""Examples, at most, on which losses and accuracies are drawn."""


@dataclass(frozen=True)
class Place:
    """What is sampled, and from where.

    Args:
        problem: The problem.
        model: The model of the run's checkpoint, or None for a new one.
        weight_decay: λ of the run it comes from; 0 for a problem.
        learning_rate: η of the run at its end, if it is not zero.
        batch_size: B of the run.
        words: What it is, in words.
    """

    problem: "Problem"
    model: "nn.Module | None"
    weight_decay: float
    learning_rate: float
    batch_size: int
    words: str


@click.command(epilog="Example: gradiometer sample logistic-regression --sampler sghmc --lr 0.1 --steps 20000")
@click.argument("target", metavar="RUN|PROBLEM")
@click.option("--sampler", "kind", type=click.Choice(["sgld", "sghmc", "sgnht"]), default="sgld", show_default=True)
@click.option("--temperature", type=float, default=1.0, show_default=True, help="T in posterior units: U = N × loss.")
@click.option("--lr", "learning_rate", type=float, default=None, help="η of the mean loss. [0.1, or the run's]")
@click.option("--momentum", type=float, default=None, help="Of sghmc and sgnht. [0.9]")
@click.option("-b", "--batch-size", type=int, default=None, help="B. [32, or the run's]")
@click.option(
    "--weight-decay", type=float, default=None, help="λ of a Gaussian prior of precision Nλ. [0, or the run's]"
)
@click.option("--steps", type=int, default=5000, show_default=True, help="Steps that are measured.")
@click.option("--burn-in", type=int, default=2000, show_default=True, help="Steps before, which are forgotten.")
@click.option("--every", type=int, default=10, show_default=True, help="Steps from one draw to the next.")
@click.option(
    "--chains", type=click.IntRange(min=1), default=1, show_default=True, help="Independent runs; from 2 on, R-hat."
)
@click.option(
    "--png", type=click.Path(file_okay=False, path_type=Path), default=None, help="Folder for pictures of the chains."
)
@click.option(
    "--hold/--no-hold", default=True, show_default=True, help="Inject T less the heat SGD has by itself, or T."
)
@click.option("--model", default=None, help="One of the problem's models.")
@click.option("--data-dir", default=None, help="Where data on disk lies.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the start, the batches and the noise.")
@click.option("--level", type=float, default=0.9, show_default=True, help="Of all intervals.")
@json_option
def sample(target: str, kind: str, chains: int, png: Path | None, as_json: bool, **settings: Any) -> None:
    """Draw from exp(−U/T) with U = N × the mean loss, from RUN's last checkpoint or from PROBLEM at its start.

    Prints the temperature asked for and the one measured, what SGD heats by itself and what is injected, and the
    posterior's mean and spread of losses and accuracy, all with intervals. Where the noise of the batches alone is
    hotter than asked, it says so, and what rate or batch would do. Several chains, each from a start of its own (of a
    run, all from its checkpoint), tell by R-hat and effective sample size whether they have mixed.
    """
    import torch

    from gradiometer.cli.outcome import filled, print_json
    from gradiometer.errors import BadArgument

    torch.set_num_threads(1)
    if not 0 < settings["level"] < 1:
        raise BadArgument(f"`--level` must lie between 0 and 1, got {settings['level']}.")
    if png is not None and chains < 2:
        raise BadArgument("`--png` draws chains against one another: add --chains 4.")
    place = _place(target, settings)
    found = [_found(_start(place, settings["seed"] + chain), kind, settings, chain) for chain in range(chains)]
    agreement = _agreement(found, settings["level"])
    pictures = [] if png is None else _draw(found, settings, png)
    if as_json:
        first, several = found[0].to_dict(), {}
        if chains > 1:
            several = {"chains": [each.to_dict() for each in found], "mixing": [each.to_dict() for each in agreement]}
        print_json({"target": target, "sampler": kind, **first, **several, "pictures": pictures})
        return
    _tell(place, kind, found, settings)
    for each in agreement:
        click.echo(filled(str(each)) + "\n")
    for picture in pictures:
        click.echo(picture)


def _place(target: str, settings: dict[str, Any]) -> Place:
    """The last checkpoint of a run, or a problem at its start."""
    from gradiometer.errors import BadArgument

    if not is_run(target):
        return _started(target, settings)
    for name in ("model", "data_dir"):
        if settings[name] is not None:
            raise BadArgument(f"`--{name.replace('_', '-')}` is the run's own: leave it out, or name a problem.")
    return _resumed(Path(target))


def _started(name: str, settings: dict[str, Any]) -> Place:
    from gradiometer.problems.registry import load

    problem = load(name, model=settings["model"], data_dir=settings["data_dir"], seed=settings["seed"])
    size = min(32, len(problem.train))
    return Place(problem, None, 0.0, 0.1, size, f"{problem.name} ({problem.model_name}) from its start")


def _resumed(path: Path) -> Place:
    training, run = training_at_start(path)
    load_last_checkpoint(training, path)
    configuration = run.configuration
    rate = training.learning_rate if training.learning_rate > 0 else configuration.learning_rate
    words = f"{run.name} from step {training.step:,}"
    return Place(training.problem, training.model, configuration.weight_decay, rate, configuration.batch_size, words)


def _start(place: Place, seed: int) -> Place:
    """The place with a model of its own: a copy of the checkpoint's, or a new one."""
    import copy
    from dataclasses import replace

    import torch

    if place.model is not None:
        return replace(place, model=copy.deepcopy(place.model))
    torch.manual_seed(seed)
    return replace(place, model=place.problem.model())


def _found(place: Place, kind: str, settings: dict[str, Any], chain: int) -> "Sampled":
    from gradiometer.exploration.samplers.sampling import sample as run_sampler
    from gradiometer.measurement.objective import Objective
    from gradiometer.measurement.order import Order
    from gradiometer.measurement.reading import Draw

    model = place.model
    if model is None:
        raise TypeError("a place is started before it is sampled from")
    settings = {**settings, "seed": settings["seed"] + chain}
    objective = Objective(model, place.problem.loss)
    batch_size = place.batch_size if settings["batch_size"] is None else settings["batch_size"]
    order = Order(Draw.REPLACEMENT, len(place.problem.train), batch_size, seed=settings["seed"])
    return run_sampler(
        _sampler(place, kind, objective, batch_size, settings),
        objective,
        lambda step: place.problem.train.batch(order.batch(step)),
        _functions(place.problem, model),
        burn_in=settings["burn_in"],
        steps=settings["steps"],
        every=settings["every"],
        known=_known(place, settings | {"seed": settings["seed"] - chain}),
        level=settings["level"],
    )


def _sampler(place: Place, kind: str, objective: "Objective", batch_size: int, settings: dict[str, Any]) -> "Sampler":
    from gradiometer.exploration.samplers.sghmc import SGHMC
    from gradiometer.exploration.samplers.sgld import SGLD
    from gradiometer.exploration.samplers.sgnht import SGNHT

    given = {
        "lr": place.learning_rate if settings["learning_rate"] is None else settings["learning_rate"],
        "weight_decay": place.weight_decay if settings["weight_decay"] is None else settings["weight_decay"],
        "examples": len(place.problem.train),
        "temperature": settings["temperature"],
        "hold": settings["hold"],
        "batch_size": batch_size,
        "burn_in": max(settings["burn_in"] // 2, 0),
        "seed": settings["seed"],
    }
    if settings["momentum"] is not None:
        given["momentum"] = settings["momentum"]
    kinds: dict[str, Callable[..., Sampler]] = {"sgld": SGLD, "sghmc": SGHMC, "sgnht": SGNHT}
    return kinds[kind](objective.parameters, **given)


def _functions(problem: "Problem", model: "nn.Module") -> dict[str, Callable[[], float]]:
    """Losses and accuracy of the model as it stands, on fixed examples, in eval mode."""
    import torch

    def drawn(function: Callable[..., Any], examples: "Examples") -> Callable[[], float]:
        batch = examples.batch(torch.arange(min(len(examples), WATCHED)))

        def number() -> float:
            training = model.training
            model.eval()
            with torch.no_grad():
                value: float = function(model, batch).double().mean().item()
            model.train(training)
            return value

        return number

    functions = {"train_loss": drawn(problem.loss, problem.train)}
    if problem.test is not None:
        functions["test_loss"] = drawn(problem.loss, problem.test)
        if problem.correct is not None:
            functions["test_accuracy"] = drawn(problem.correct, problem.test)
    return functions


def _known(place: Place, settings: dict[str, Any]) -> Mapping[str, float]:
    """The mean training loss, where the posterior is known and no prior was added to it."""
    if settings["weight_decay"] or not settings["temperature"] > 0:
        return {}
    from gradiometer.problems.closed_forms import linear_regression, logistic_regression

    if place.problem.name == "linear-regression":
        return {"train_loss": linear_regression.known(settings["seed"]).mean_loss(settings["temperature"])}
    if place.problem.name == "logistic-regression":
        return {"train_loss": logistic_regression.known()[0].moments(settings["temperature"]).mean_loss}
    return {}


def _agreement(found: "Sequence[Sampled]", level: float) -> "list[Mixing]":
    """R-hat and effective sample sizes of every function that varies; nothing for a single chain."""
    import numpy as np

    from gradiometer.exploration.chains.mixing import mixing

    if len(found) < 2:
        return []
    draws = {name: np.stack([each.draws[name] for each in found], axis=1) for name in found[0].draws}
    return mixing({name: values for name, values in draws.items() if np.ptp(values) > 0}, level)


def _draw(found: "Sequence[Sampled]", settings: dict[str, Any], folder: Path) -> list[str]:
    """Three pictures of every function. Returns where they are."""
    import numpy as np

    from gradiometer.report.charts.charts import save_png
    from gradiometer.report.charts.mixing_charts import autocorrelation_chart, rank_chart, trace_chart

    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name in found[0].draws:
        draws = np.stack([each.draws[name] for each in found], axis=1)
        steps = settings["burn_in"] + settings["every"] * np.arange(len(draws))
        words = name.replace("_", " ")
        for kind, chart in (
            ("trace", trace_chart(words, draws, steps)),
            ("ranks", rank_chart(words, draws)),
            ("autocorrelation", autocorrelation_chart(words, draws)),
        ):
            path = folder / f"{name}_{kind}.png"
            save_png(chart, path, f"{words}: {kind}")
            paths.append(str(path))
    return paths


def _tell(place: Place, kind: str, chains: "Sequence[Sampled]", settings: dict[str, Any]) -> None:
    """The temperatures, whether the one asked for was kept, and the moments, chain by chain."""
    for number, found in enumerate(chains):
        name = place.words if len(chains) == 1 else f"{place.words}, chain {number}"
        _tell_one(name, kind, found, settings)


def _tell_one(name: str, kind: str, found: "Sampled", settings: dict[str, Any]) -> None:
    from gradiometer.cli.outcome import filled
    from gradiometer.measurement.estimate import significant

    click.echo(filled(f"{kind.upper()} on {name}, {settings['steps']:,} steps after {settings['burn_in']:,}.") + "\n")
    rows = [
        ("asked", significant(found.asked)),
        ("measured", str(found.measured)),
        ("own heat", str(found.own)),
        ("of mini-batch", str(found.minibatch)),
        ("injected", significant(found.injected)),
    ]
    for label, words in rows:
        click.echo(f"  T {label:<15}{words}")
    click.echo("")
    for function, moment in found.moments.items():
        known = "" if moment.known is None else f"   known: {significant(moment.known, 4)}"
        words = f"{function:<17}mean {moment.mean}, spread {moment.spread}{known}"
        click.echo(filled(words, indent=2, hanging=17))
    click.echo("\n" + filled(_verdict(found, settings["hold"])) + "\n")


def _verdict(found: "Sampled", hold: bool) -> str:
    """Whether the temperature was kept, and what to do where it was not."""
    if not found.measured.tells:
        return "The temperature cannot be told yet: take more steps."
    if found.kept:
        return f"The temperature measured, {found.bounds} at 99 %, is not distinguishable from the one asked for."
    if found.bounds.high < found.asked:
        return (
            "It is colder than asked: the chain still spreads, along directions that are slower than the run. Their "
            "draws do not stand for the posterior; take more steps, or a larger rate."
        )
    way = "it still comes down, so take a longer burn-in" if hold else "with --hold the heat of SGD itself is taken off"
    return f"It is hotter than asked: {way}."
