"""Chains: independent runs of one model, computed together as fast as this model lets them be."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from gradiometer.errors import BadArgument, Diverged
from gradiometer.exploration.chains.engines import ENGINES, Engine, Function, Sequential
from gradiometer.exploration.chains.processes import in_processes
from gradiometer.exploration.chains.state import ChainState
from gradiometer.exploration.samplers.sampler import check_number, check_whole
from gradiometer.measurement.batch import Batch, batch_size, take
from gradiometer.measurement.objective import Loss, Objective, Traits
from gradiometer.measurement.reading import Draw
from gradiometer.measurement.untouched import untouched_randomness

ROUNDS = 3
"""Times each way is timed before one is chosen."""

WORTH_ASKING = 100
"""Steps of a run below which nothing is timed: vmap alone would cost more than it could save."""

LOSING = 1.5
"""Times the best seen so far, at which a way is not timed again."""


@dataclass(frozen=True)
class Chains:
    """What M independent runs left.

    Args:
        models: The trained models, one a chain.
        draws: Of every function that was watched, its mean over the examples watched: [draws, chains].
        steps: The step after which each draw was taken.
        way: How the gradients were computed.
        why_not: For every way that was not possible, the reason.
        milliseconds: Of every way that was timed, the shortest step of all chains, in time this thread was at work.
    """

    models: Sequence[nn.Module]
    draws: Mapping[str, Float[np.ndarray, "draws chains"]]
    steps: Int[np.ndarray, " draws"]
    way: str
    why_not: Mapping[str, str] = field(default_factory=dict)
    milliseconds: Mapping[str, float] = field(default_factory=dict)

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
    way: str | None = None,
    processes: int = 1,
) -> Chains:
    """Train M models independently of one another: own starts, own batches, own rates, own temperatures.

    The runs are those that a loop over the chains would make, up to rounding (which training amplifies: to 1e-6 over
    a few hundred steps in double precision). They are computed as one network of batched products where the model is
    a sequence of linear layers and elementwise functions, by vmap where its layers have batching rules, or one after
    the other. Unless a way is named, the first steps of the run are made in each way in turn, and the fastest is kept:
    no step is wasted, and it is never much slower than the loop. What was not possible, and why, is told.

    Args:
        model: Makes a model from torch's global random numbers, which are seeded for each chain and put back.
        loss: Called as `loss(model, batch)`; one value an example lets the chains be told apart in one network.
        data: The training examples, a tree of tensors whose first axis is the example.
        chains: M.
        steps: Of each chain.
        batch_size: B of each chain.
        learning_rate: η, of all or of each.
        temperature: T in posterior units, of all or of each: 0 for SGD, above it SGLD that holds it.
        momentum: μ of SGD's heavy ball; not with a temperature.
        weight_decay: λ.
        draw: How batches are drawn: independently, or in reshuffled epochs.
        seeds: Of each chain: its start, its batches, its noise. Left out, 0 to M − 1.
        watch: Functions of (model, batch), a number an example, whose means are drawn; left out, the loss.
        watched: What they are drawn on; left out, the first 256 training examples.
        every: Steps from one draw to the next.
        way: "stacked", "vmap" or "sequential"; left out, the fastest.
        processes: Of one thread each, to which the chains are dealt out, each choosing its way; on Linux. Worth it on
            as many free cores, for runs of seconds, of models too large to gain from being one.

    Raises:
        BadArgument: A setting is none, or the way named cannot run this model.
        Diverged: A chain's parameters are not finite at the end.

    Example:
        >>> run_chains(net, loss, data, chains=8, steps=500, batch_size=32, learning_rate=0.1)  # doctest: +SKIP
    """
    _check(momentum, weight_decay, chains=chains, steps=steps, batch_size=batch_size, every=every, processes=processes)
    rates = _of_each("learning_rate", learning_rate, chains, positive=True)
    temperatures = _of_each("temperature", temperature, chains, positive=False)
    if momentum and any(temperatures):
        raise BadArgument(
            "`momentum` cannot be had with a temperature: chains at a temperature are SGLD, which has none."
        )
    seeds = list(range(chains)) if seeds is None else list(seeds)
    if len(seeds) != chains:
        raise BadArgument(f"`seeds` must be one a chain, {chains}, got {len(seeds)}.")
    models = _models(model, seeds)

    def run(places: Sequence[int]) -> Chains:
        own, own_seeds = [models[place] for place in places], [seeds[place] for place in places]
        order = _Batches(data, batch_size, draw, own_seeds)
        own_rates, own_temperatures = [rates[place] for place in places], [temperatures[place] for place in places]
        state = ChainState(own, own_rates, own_temperatures, momentum, weight_decay, order.examples, own_seeds)
        watching = _Watch(watch or {"loss": loss}, watched if watched is not None else _first(data), every)
        choice = _Choice(state, loss, data, take(data, order.index(0)[0]), steps, way)
        for step in range(steps):
            engine = choice.step(order.index(step))
            if (step + 1) % every == 0:
                watching.look(engine, step + 1)
        _check_finite(state)
        found = watching.draws(), np.array(watching.steps)
        return Chains(own, *found, choice.engine.name, choice.why_not, choice.milliseconds)

    return run(range(chains)) if processes == 1 else _in_processes(run, models, processes)


def _in_processes(run: Callable[[Sequence[int]], Chains], models: list[nn.Module], processes: int) -> Chains:
    """The chains of all processes as one result: their ways told apart by commas, and the longest step of each way."""
    answers = in_processes(processes, len(models), run)
    for model, state in zip(models, (state for states, _ in answers for state in states), strict=True):
        model.load_state_dict(state)
    parts = [part for _, part in answers]
    milliseconds = {
        name: max(part.milliseconds.get(name, 0.0) for part in parts)
        for name in dict.fromkeys(name for part in parts for name in part.milliseconds)
    }
    draws = {name: np.concatenate([part.draws[name] for part in parts], axis=1) for name in parts[0].draws}
    ways = ", ".join(dict.fromkeys(part.way for part in parts))
    return Chains(models, draws, parts[0].steps, ways, parts[0].why_not, milliseconds)


class _Choice:
    """Which engine makes the steps: each in turn at first, then the fastest."""

    def __init__(self, state: ChainState, loss: Loss, data: Batch, example: Batch, steps: int, way: str | None) -> None:
        if way is not None and way not in ENGINES:
            raise BadArgument(f"`way` must be one of {', '.join(ENGINES)}, got {way!r}.")
        traits = Objective(state.models[0], loss).traits(example)
        self.why_not, self.milliseconds = dict[str, str](), dict[str, float]()
        self.engines: list[Engine] = []
        for name, kind in ENGINES.items():
            if way not in (None, name) or (name == "vmap" and way is None and steps < WORTH_ASKING):
                continue
            if (reason := kind.why_not(state, loss, example, traits)) is not None:
                self.why_not[name] = reason
                continue
            self.engines.append(_made(kind, state, loss, data, traits))
        if not self.engines:
            raise BadArgument(f"`way` {way!r} cannot run this model: {self.why_not[str(way)]}.")
        self.engine = self.engines[0]
        self._turns = self._schedule() if len(self.engines) > 1 and steps >= WORTH_ASKING else []

    def _schedule(self) -> list[Engine]:
        """A step of each to find its memory, then a few rounds."""
        return [engine for _ in range(ROUNDS + 1) for engine in reversed(self.engines)]

    def step(self, index: Int[Tensor, "chains examples"]) -> Engine:
        """One step of all chains; returns the engine that made it."""
        if not self._turns:
            self.engine.step(index)
            return self.engine
        engine, first = self._turns.pop(0), len(self._turns) >= ROUNDS * len(self.engines)
        began = time.thread_time()
        engine.step(index)
        taken = 1000 * (time.thread_time() - began)
        if not first:
            self.milliseconds[engine.name] = min(taken, self.milliseconds.get(engine.name, math.inf))
        if self.milliseconds:
            best = min(self.milliseconds.values())
            self._turns = [e for e in self._turns if self.milliseconds.get(e.name, best) <= LOSING * best]
            self.engine = min(self.engines, key=lambda e: self.milliseconds.get(e.name, math.inf))
        return engine


class _Batches:
    """Which examples make the batch of every chain at a step: the order that a run with the chain's seed has."""

    def __init__(self, data: Batch, size: int, draw: Draw, seeds: Sequence[int]) -> None:
        self.examples = batch_size(data)
        if not 1 <= size <= self.examples:
            raise BadArgument(f"`batch_size` must lie between 1 and the {self.examples:,} examples, got {size:,}.")
        if draw is Draw.FRESH:
            raise BadArgument("`draw` must be replacement or reshuffled: from a finite set there is nothing fresh.")
        self.size, self.draw, self.seeds = size, draw, seeds
        self.per_epoch = -(-self.examples // size)
        self._epoch: tuple[int, Int[Tensor, "chains drawn"]] | None = None

    def index(self, step: int) -> Int[Tensor, "chains examples"]:
        """Positions of the examples, a row a chain."""
        epoch, place = divmod(step, self.per_epoch)
        if self._epoch is None or self._epoch[0] != epoch:
            self._epoch = epoch, torch.stack([self._drawn(seed, epoch) for seed in self.seeds])
        return self._epoch[1][:, place * self.size : (place + 1) * self.size]

    def _drawn(self, seed: int, epoch: int) -> Int[Tensor, " drawn"]:
        state = int(np.random.SeedSequence((seed, epoch)).generate_state(1)[0])
        generator = torch.Generator().manual_seed(state)
        if self.draw is Draw.RESHUFFLED:
            return torch.randperm(self.examples, generator=generator)
        return torch.randint(self.examples, (self.per_epoch * self.size,), generator=generator)


class _Watch:
    """Functions of every chain's model, drawn along the run, in eval mode."""

    def __init__(self, functions: Mapping[str, Function], batch: Batch, every: int) -> None:
        self.functions, self.batch, self.every = functions, batch, every
        self.steps: list[int] = []
        self._draws: dict[str, list[np.ndarray]] = {name: [] for name in functions}

    def look(self, engine: Engine, step: int) -> None:
        """One draw of each function."""
        models = engine.state.models
        modes = [(module, module.training) for model in models for module in model.modules()]
        for model in models:
            model.eval()
        try:
            for name, function in self.functions.items():
                values = engine.values(function, self.batch).double()
                self._draws[name].append(values.reshape(len(models), -1).mean(1).cpu().numpy())
        finally:
            for module, training in modes:
                module.training = training
        self.steps.append(step)

    def draws(self) -> dict[str, Float[np.ndarray, "draws chains"]]:
        """All draws, by function."""
        return {name: np.stack(values) for name, values in self._draws.items() if values}


def _made(kind: type[Engine], state: ChainState, loss: Loss, data: Batch, traits: Traits) -> Engine:
    return Sequential(state, loss, data, traits.random) if kind is Sequential else kind(state, loss, data)


def _models(make: Callable[[], nn.Module], seeds: Sequence[int]) -> list[nn.Module]:
    models = []
    for seed in seeds:
        with untouched_randomness(seed, []):
            models.append(make())
    if len({id(model) for model in models}) < len(models):
        raise BadArgument("`model` must make a new model each time, got the same one twice: write model=lambda: ....")
    return models


def _first(data: Batch) -> Batch:
    return take(data, torch.arange(min(256, batch_size(data))))


def _of_each(name: str, value: float | Sequence[float], chains: int, *, positive: bool) -> list[float]:
    values = [value] * chains if isinstance(value, int | float) else list(value)
    if len(values) != chains:
        raise BadArgument(f"`{name}` must be one number, or one a chain, {chains}, got {len(values)}.")
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


def _check_finite(state: ChainState) -> None:
    finite = torch.stack([leaf.detach().flatten(1).isfinite().all(1) for leaf in state.leaves]).all(0)
    if not finite.all():
        lost = [place for place, good in enumerate(finite.tolist()) if not good]
        seeds, rates = (", ".join(f"{of[place]:g}" for place in lost) for of in (state.seeds, state.rates))
        raise Diverged(f"the chains of seeds {seeds} diverged, at learning rates {rates}: try smaller ones.")
