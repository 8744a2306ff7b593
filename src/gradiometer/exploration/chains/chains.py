"""Chains: independent training runs of one model, computed together as fast as the model allows."""

import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from gradiometer.arguments import check_number, check_whole
from gradiometer.errors import BadArgument, Diverged
from gradiometer.exploration.chains.engines import ENGINES, BatchAt, Engine
from gradiometer.exploration.chains.processes import in_processes
from gradiometer.exploration.chains.state import Function, SampledChains, SGDChains, StackedModels, trainable
from gradiometer.exploration.samplers.sgld import SGLD
from gradiometer.measurement import batch as batches
from gradiometer.measurement.batch import Batch, Order, take
from gradiometer.measurement.loss import Loss
from gradiometer.measurement.objective import Objective
from gradiometer.measurement.reading import Draw
from gradiometer.measurement.untouched import in_eval_mode
from gradiometer.randomness import untouched_randomness

Value = TypeVar("Value")

ROUNDS = 3
"""Times each engine is timed before one is chosen."""

WORTH_TIMING = 100
"""Steps below which nothing is timed: vmap alone would cost more than it could save."""

SLOW = 1.5
"""An engine this many times slower than the best so far is not timed again."""


@dataclass(frozen=True)
class Chains:
    """The result of M independent runs.

    Args:
        models: The trained models, one per chain.
        draws: For every watched function, its mean over the watched examples: [draws, chains].
        steps: The step after which each draw was taken.
        engine: How the gradients were computed.
        why_not: For every engine that could not run these chains, the reason.
        milliseconds: For every engine that was timed, the shortest step of all chains, in CPU time of this thread.
    """

    models: Sequence[nn.Module]
    draws: Mapping[str, Float[np.ndarray, "draws chains"]]
    steps: Int[np.ndarray, " draws"]
    engine: str
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
    engine: str | None = None,
    processes: int = 1,
) -> Chains:
    """Train M models independently, each with its own start, batches, learning rate and temperature.

    The runs are those of a loop over the chains, up to rounding (which training amplifies: to 1e-6 over a few hundred
    steps in double precision). Three engines compute them: one network of batched products if the model is a sequence
    of linear layers and elementwise functions ("stacked"), `torch.func.vmap` if all layers have batching rules
    ("vmap"), or a loop ("sequential"). The first steps of a run use each possible engine in turn, and the rest uses
    the fastest: no step is wasted, and the run is never much slower than the loop.

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
        engine: "stacked", "vmap" or "sequential". Default: the fastest.
        processes: Number of processes of one thread each that share the chains; each chooses its engine. Linux only.
            It pays on as many free cores, for runs of seconds, with models too large to gain from "stacked".

    Raises:
        BadArgument: A setting is invalid, or `engine` cannot run this model.
        Diverged: The parameters of a chain are not finite at the end.

    Example:
        >>> import torch
        >>> from gradiometer import run_chains, supervised
        >>> data = torch.ones(8, 1), torch.full((8, 1), 3.0)
        >>> loss = supervised(lambda outputs, targets: (outputs - targets).square().flatten())
        >>> settings = {"chains": 4, "steps": 50, "batch_size": 2, "learning_rate": 0.1}
        >>> found = run_chains(lambda: torch.nn.Linear(1, 1), loss, data, **settings)
        >>> [round((model.weight + model.bias).item(), 3) for model in found.models]
        [3.0, 3.0, 3.0, 3.0]
        >>> found.engine, found.draws["loss"].shape
        ('stacked', (5, 4))
    """
    _check(momentum, weight_decay, chains=chains, steps=steps, batch_size=batch_size, every=every, processes=processes)
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

    def sgld(place: int) -> SGLD:
        return SGLD(
            trainable(models[place]),
            rates[place],
            examples=orders[place].examples,
            temperature=temperatures[place],
            weight_decay=weight_decay,
            batch_size=batch_size,
            seed=seeds[place],
        )

    def run(places: Sequence[int]) -> Chains:
        def of(values: Sequence[Value]) -> list[Value]:
            return [values[place] for place in places]

        state: StackedModels
        if any(temperatures):
            state = SampledChains(of(models), of(seeds), [sgld(place) for place in places])
        else:
            state = SGDChains(of(models), of(seeds), of(rates), momentum, weight_decay)
        watching = Watch({name: (function, watched) for name, function in (watch or {"loss": loss}).items()})
        used = EngineChoice(state, loss, partial(take, data), of(orders), engine, timed=steps >= WORTH_TIMING)
        for step, _ in used.steps(steps):
            if step and step % every == 0:
                watching.look(state.models, used.engine.values)
        _check_finite(state, of(rates))
        drawn_after = np.arange(every, steps + 1, every)
        return Chains(of(models), watching.draws(), drawn_after, used.engine.name, used.why_not, used.milliseconds)

    def run_part(places: Sequence[int]) -> tuple[list[dict[str, Tensor]], Chains]:
        found = run(places)
        return [model.state_dict() for model in found.models], replace(found, models=())

    if processes == 1:
        return run(range(chains))
    parts = [part.tolist() for part in torch.arange(chains).tensor_split(min(processes, chains))]
    return _joined(models, in_processes(run_part, parts))


def _joined(models: list[nn.Module], answers: Sequence[tuple[list[dict[str, Tensor]], Chains]]) -> Chains:
    """The chains of all processes as one result: all their engines, and the longest step of each."""
    for model, state in zip(models, (state for states, _ in answers for state in states), strict=True):
        model.load_state_dict(state)
    parts = [part for _, part in answers]
    milliseconds: dict[str, float] = {}
    for name, taken in (item for part in parts for item in part.milliseconds.items()):
        milliseconds[name] = max(taken, milliseconds.get(name, 0.0))
    draws = {name: np.concatenate([part.draws[name] for part in parts], axis=1) for name in parts[0].draws}
    engines = ", ".join(dict.fromkeys(part.engine for part in parts))
    return Chains(models, draws, parts[0].steps, engines, parts[0].why_not, milliseconds)


class EngineChoice:
    """Runs chains with the fastest engine: each possible engine in turn at first, then the fastest.

    Args:
        state: The chains.
        loss: Called as `loss(model, batch)`.
        batch_at: Takes the training examples at some positions.
        orders: The order of the examples of each chain.
        name: The engine to use. None: the fastest.
        timed: Find out the fastest by timing. Otherwise use "stacked" if possible, else "sequential", so that the
            same seeds give the same bits.
    """

    def __init__(
        self,
        state: StackedModels,
        loss: Loss,
        batch_at: BatchAt,
        orders: Sequence[Order],
        name: str | None = None,
        *,
        timed: bool = False,
    ) -> None:
        if name not in (None, *ENGINES):
            raise BadArgument(f"`engine` must be one of {', '.join(ENGINES)}, got {name!r}.")
        example = batch_at(orders[0].batch(0))
        self.traits = Objective(state.models[0], loss).traits(example)
        self.why_not, self.milliseconds = dict[str, str](), dict[str, float]()
        engines: list[Engine] = []
        for each, kind in ENGINES.items():
            if name not in (None, each) or (each == "vmap" and name is None and not timed):
                continue
            if (reason := kind.why_not(state, loss, example, self.traits)) is None:
                engines.append(kind(state, loss, batch_at, self.traits))
            else:
                self.why_not[each] = reason
        if not engines:
            raise BadArgument(f"`engine` {name!r} cannot run this model: {self.why_not[str(name)]}.")
        self.orders, self.engines, self.engine = orders, engines, engines[0]
        # An untimed step of each engine, which allocates its memory, then a few rounds.
        self._turns = [e for _ in range(ROUNDS + 1) for e in reversed(engines)] if timed and len(engines) > 1 else []

    def steps(self, count: int) -> Iterator[tuple[int, Int[Tensor, "chains examples"]]]:
        """Make this many steps. Yields the number of steps made so far and the batches of the next step."""
        for step, index in zip(range(count + 1), self._batches(), strict=False):
            yield step, index
            if step < count:
                self._step(index)

    def _batches(self) -> Iterator[Int[Tensor, "chains examples"]]:
        """Positions of the examples in the batches of one step after another, one row per chain."""
        for epoch in itertools.count():
            chosen = torch.stack([order.epoch(epoch) for order in self.orders])
            yield from chosen.split(self.orders[0].batch_size, dim=1)

    def _step(self, index: Int[Tensor, "chains examples"]) -> None:
        if not self._turns:
            self.engine.step(index)
            return
        self.engine, first = self._turns.pop(0), len(self._turns) >= ROUNDS * len(self.engines)
        began = time.thread_time()
        self.engine.step(index)
        taken = 1000 * (time.thread_time() - began)
        if not first:
            self.milliseconds[self.engine.name] = min(taken, self.milliseconds.get(self.engine.name, math.inf))
            best = min(self.milliseconds.values())
            self._turns = [e for e in self._turns if self.milliseconds.get(e.name, best) <= SLOW * best]
        if not self._turns:
            self.engine = min(self.engines, key=lambda e: self.milliseconds.get(e.name, math.inf))


class Watch:
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
