"""Chains: independent training runs of one model, computed together as fast as the model allows."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from functools import partial
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from gradiometer.arguments import check_number, check_whole
from gradiometer.errors import BadArgument, Diverged
from gradiometer.exploration.chains.engine_choice import EngineChoice
from gradiometer.exploration.chains.parts import in_parts
from gradiometer.exploration.chains.state import Function, SampledChains, SGDChains, StackedModels, trainable
from gradiometer.exploration.samplers.sgld import SGLD
from gradiometer.jobs.choice import opened
from gradiometer.jobs.pool import Here, Pool
from gradiometer.measurement import batch as batches
from gradiometer.measurement.batch import Batch, Order, take
from gradiometer.measurement.loss import Loss
from gradiometer.measurement.reading import Draw
from gradiometer.measurement.untouched import in_eval_mode
from gradiometer.randomness import untouched_randomness

Value = TypeVar("Value")


@dataclass(frozen=True)
class Chains:
    """The result of M independent runs.

    Args:
        models: The trained models, one per chain.
        draws: For every watched function, its mean over the watched examples: [draws, chains].
        steps: The step after which each draw was taken.
        engine: How the gradients were computed.
        why_not: For every engine that could not run these chains, the reason.
    """

    models: Sequence[nn.Module]
    draws: Mapping[str, Float[np.ndarray, "draws chains"]]
    steps: Int[np.ndarray, " draws"]
    engine: str
    why_not: Mapping[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.models)


def run_chains(
    model: Callable[[], nn.Module],
    loss: Loss,
    data: Batch,
    *,
    chains: int,
    steps: int,
    batch_size: int,
    learning_rate: float | Sequence[float],
    temperature: float | Sequence[float] = 0.0,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    draw: Draw = Draw.REPLACEMENT,
    seeds: Sequence[int] | None = None,
    watch: Mapping[str, Function] | None = None,
    watched: Batch | None = None,
    every: int = 10,
    engine: str | None = None,
    pool: str | Pool = "here",
) -> Chains:
    """Train M models independently, each with its own start, batches, learning rate and temperature.

    The runs are those of a loop over the chains, up to rounding (which training amplifies: to 1e-6 over a few hundred
    steps in double precision). Two engines compute them: one network of batched products if the model is a sequence
    of linear layers and elementwise functions of at most 50,000 parameters ("stacked"), or a loop ("sequential").

    Args:
        model: Makes a model from torch's global random numbers, which are seeded for each chain and restored.
        loss: Called as `loss(model, batch)`. "stacked" needs one value per example.
        data: The training examples, a tree of tensors whose first axis is the example.
        chains: M.
        steps: Number of steps of each chain.
        batch_size: B of each chain.
        learning_rate: η, one for all chains or one per chain.
        temperature: T in posterior units, one for all chains or one per chain: 0 for SGD, positive for SGLD that holds
            this temperature.
        momentum: μ of SGD's heavy ball. Only at temperature 0.
        weight_decay: λ.
        draw: How batches are drawn: independently, or in reshuffled epochs.
        seeds: For each chain the seed of its start, batches and noise. Default: 0 to M − 1.
        watch: Functions of (model, batch), one number per example, whose means are recorded. Default: the loss.
        watched: The examples for `watch`. Default: the first 256 training examples.
        every: Steps between two draws of the watched functions.
        engine: "stacked" or "sequential". Default: the one that is faster for networks of this size.
        pool: Where the chains run: "here", "processes", "processes:4", "ray", or a `Pool`. Its processes share the
            chains, and have one thread each. It pays on as many free cores, for runs longer than the start of a
            process, with models too large to gain from "stacked".

    Raises:
        BadArgument: A setting is invalid, `engine` cannot run this model, or something cannot be sent to a process.
        Interrupted: A process was killed.
        Diverged: The parameters of a chain are not finite at the end.

    Example:
        >>> import torch
        >>> from gradiometer import supervised
        >>> from gradiometer.exploration.chains.chains import run_chains
        >>> data = torch.ones(8, 1), torch.full((8, 1), 3.0)
        >>> loss = supervised(lambda outputs, targets: (outputs - targets).square().flatten())
        >>> settings = {"chains": 4, "steps": 50, "batch_size": 2, "learning_rate": 0.1}
        >>> found = run_chains(lambda: torch.nn.Linear(1, 1), loss, data, **settings)
        >>> [round((model.weight + model.bias).item(), 3) for model in found.models]
        [3.0, 3.0, 3.0, 3.0]
        >>> found.engine, found.draws["loss"].shape
        ('stacked', (5, 4))
    """
    _check(momentum, weight_decay, chains=chains, steps=steps, batch_size=batch_size, every=every)
    rates = _per_chain("learning_rate", learning_rate, chains, positive=True)
    temperatures = _per_chain("temperature", temperature, chains, positive=False)
    if momentum and any(temperatures):
        raise BadArgument("`momentum` must be 0 if a temperature is positive: such chains are SGLD, without momentum.")
    if draw is Draw.FRESH:
        raise BadArgument("`draw` must be replacement or reshuffled: a finite training set has no fresh examples.")
    seeds = list(range(chains) if seeds is None else seeds)
    if len(seeds) != chains:
        raise BadArgument(f"`seeds` must be one per chain, {chains}, got {len(seeds)}.")
    orders = [Order(draw, batches.batch_size(data), batch_size, seed) for seed in seeds]
    models = make_models(model, seeds)
    watched = take(data, torch.arange(min(256, orders[0].examples))) if watched is None else watched

    watching = {name: (function, watched) for name, function in (watch or {"loss": loss}).items()}
    prepared = PreparedChains(
        models, loss, data, orders, seeds, rates, temperatures, watching,
        momentum=momentum, weight_decay=weight_decay, steps=steps, every=every, engine=engine,
    )  # fmt: skip
    with opened(pool) as where:
        if isinstance(where, Here):
            return prepared.run(range(chains))
        return _joined(models, in_parts(where, prepared.part, chains))


@dataclass(frozen=True)
class PreparedChains:
    """All chains before their run, any of which can be run, here or in another process.

    Args:
        models: The models of all chains.
        loss: Called as `loss(model, batch)`.
        data: The training examples.
        orders: The order of the examples of each chain.
        seeds: The seed of each chain.
        rates: The learning rate of each chain.
        temperatures: The temperature of each chain.
        watching: For every name, a function of (model, batch) and the batch.
        momentum, weight_decay, steps, every, engine: As in `run_chains`.
    """

    models: list[nn.Module]
    loss: Loss
    data: Batch
    orders: list[Order]
    seeds: list[int]
    rates: list[float]
    temperatures: list[float]
    watching: Mapping[str, tuple[Function, Batch]]
    _: KW_ONLY
    momentum: float
    weight_decay: float
    steps: int
    every: int
    engine: str | None

    def run(self, places: Sequence[int]) -> Chains:
        """Train the chains at these places."""

        def of(values: Sequence[Value]) -> list[Value]:
            return [values[place] for place in places]

        models, seeds, rates = of(self.models), of(self.seeds), of(self.rates)
        state: StackedModels
        if any(self.temperatures):
            state = SampledChains(models, seeds, [self._sgld(place) for place in places])
        else:
            state = SGDChains(models, seeds, rates, self.momentum, self.weight_decay)
        watching, batch_at = DrawRecorder(self.watching), partial(take, self.data)
        used = EngineChoice(state, self.loss, batch_at, of(self.orders), self.engine)
        for step, _ in used.steps(self.steps):
            if step and step % self.every == 0:
                watching.look(state.models, used.engine.values)
        _check_finite(state, rates)
        drawn_after = np.arange(self.every, self.steps + 1, self.every)
        return Chains(models, watching.draws(), drawn_after, used.engine.name, used.why_not)

    def part(self, places: Sequence[int]) -> tuple[list[dict[str, Tensor]], Chains]:
        """The same for another process, which sends back the states of the models."""
        found = self.run(places)
        return [model.state_dict() for model in found.models], replace(found, models=())

    def _sgld(self, place: int) -> SGLD:
        return SGLD(
            trainable(self.models[place]),
            self.rates[place],
            examples=self.orders[place].examples,
            temperature=self.temperatures[place],
            weight_decay=self.weight_decay,
            batch_size=self.orders[place].batch_size,
            seed=self.seeds[place],
        )


def _joined(models: list[nn.Module], answers: Sequence[tuple[list[dict[str, Tensor]], Chains]]) -> Chains:
    """The chains of all processes as one result: with all their engines."""
    for model, state in zip(models, (state for states, _ in answers for state in states), strict=True):
        model.load_state_dict(state)
    parts = [part for _, part in answers]
    draws = {name: np.concatenate([part.draws[name] for part in parts], axis=1) for name in parts[0].draws}
    engines = ", ".join(dict.fromkeys(part.engine for part in parts))
    return Chains(models, draws, parts[0].steps, engines, parts[0].why_not)


class DrawRecorder:
    """Records functions of every chain's model during the run, in eval mode.

    Args:
        functions: For every name, a function of (model, batch) and the batch.
    """

    def __init__(self, functions: Mapping[str, tuple[Function, Batch]]) -> None:
        self.functions = functions
        self._draws: dict[str, list[np.ndarray]] = {name: [] for name in functions}

    def look(self, models: Sequence[nn.Module], values: Callable[[Function, Batch], Tensor]) -> None:
        """One draw of each function, with the values of all models computed by `values`."""
        with in_eval_mode(*models):
            for name, (function, batch) in self.functions.items():
                self._draws[name].append(values(function, batch).reshape(len(models), -1).mean(1).cpu().numpy())

    def draws(self) -> dict[str, Float[np.ndarray, "draws chains"]]:
        """All draws, by function."""
        return {name: np.stack(values) for name, values in self._draws.items() if values}


def make_models(make: Callable[[], nn.Module], seeds: Sequence[int]) -> list[nn.Module]:
    """A new model for each seed, made from torch's global random numbers."""
    models = []
    for seed in seeds:
        with untouched_randomness(seed, []):
            models.append(make())
    if len({id(model) for model in models}) < len(models):
        raise BadArgument("`model` must make a new model each time, got the same one twice: write model=lambda: ....")
    return models


def _per_chain(name: str, value: float | Sequence[float], chains: int, *, positive: bool) -> list[float]:
    values = [value] * chains if isinstance(value, int | float) else list(value)
    if len(values) != chains:
        raise BadArgument(f"`{name}` must be one number, or one per chain, {chains}, got {len(values)}.")
    for each in values:
        check_number(name, each, positive=positive)
    return [float(each) for each in values]


def _check(momentum: float, weight_decay: float, **counts: int) -> None:
    for name, value in counts.items():
        check_whole(name, value, 1)
    check_number("weight_decay", weight_decay)
    check_number("momentum", momentum)
    if not momentum < 1:
        raise BadArgument(f"`momentum` must lie in [0, 1), got {momentum}.")


def _check_finite(state: StackedModels, rates: Sequence[float]) -> None:
    finite = torch.stack([leaf.detach().flatten(1).isfinite().all(1) for leaf in state.leaves]).all(0)
    if not finite.all():
        lost = [place for place, good in enumerate(finite.tolist()) if not good]
        seeds, lost_rates = (", ".join(f"{of[place]:g}" for place in lost) for of in (state.seeds, rates))
        raise Diverged(f"the chains of seeds {seeds} diverged, at learning rates {lost_rates}: try smaller ones.")
