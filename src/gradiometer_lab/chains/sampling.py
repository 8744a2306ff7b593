"""Chains of a sampler: the temperature asked for, the temperature measured, and moments of
functions of the draws."""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from gradiometer.arguments import check_whole
from gradiometer.errors import BadArgument, bounded
from gradiometer.jobs.choice import opened
from gradiometer.jobs.job import Job
from gradiometer.jobs.pool import Here, Pool
from gradiometer.measurement import Draw, Objective
from gradiometer.measurement.batch import Batch, Order, take
from gradiometer.measurement.batch import batch_size as size_of
from gradiometer.measurement.estimate import LEVEL, Estimate, about, counted, significant
from gradiometer.measurement.gradient_graph import flat
from gradiometer.measurement.objective import Loss
from gradiometer.measurement.uncertainty.means import mean
from gradiometer_lab.chains.engines import (
    ChainState,
    Function,
    chain_means,
    faster_engine,
    make_models,
    trainable,
)
from gradiometer_lab.chains.mixing import Mixing, mixing, size_of_one, size_of_slowest
from gradiometer_lab.samplers.sampler import Sampler
from gradiometer_lab.temperature.equipartition import (
    BLOCKS,
    DIRECTIONS,
    SURE,
    Equipartition,
    Shape,
    Virial,
    watched_directions,
)

# Effective draws, at least: a chain that seems to have fewer has not shown how far its draws depend
# on each other.
ENOUGH = 30

# The exact mean of a function, or its exact mean and standard deviation, if they are known.
Known = float | tuple[float, float] | None


@dataclass(frozen=True)
class Moment:
    """The mean and the spread of a function of the draws.

    Args:
        mean: Its mean over the posterior.
        spread: Its standard deviation over the posterior.
        effective: Effective number of draws, of the function or of what it may depend on; NaN of
            fewer than 4 draws.
        known: Its exact mean, if the posterior is known.
        known_spread: Its exact standard deviation, if the posterior is known.
    """

    mean: Estimate
    spread: Estimate
    effective: float
    known: float | None = None
    known_spread: float | None = None

    @classmethod
    def of(
        cls,
        values: Float[np.ndarray, " draws"],
        known: Known = None,
        level: float = LEVEL,
        every: int = 1,
        slowest: float = math.inf,
    ) -> "Moment":
        """Mean and spread of correlated draws, with intervals that account for the correlation.

        Both are unknown with fewer than 30 effective draws. In simulation with 48 to 2,000 draws of
        autoregressive chains of any correlation, nominal 90 %, at most 12 % of the intervals of
        means then miss, and 15 % of those of spreads; without this rule 33 and 53 % of the chains
        of 2.5 autocorrelation times.

        Args:
            values: The draws, in order.
            known: What is known of the function.
            level: Confidence level.
            every: Steps between two draws.
            slowest: Effective draws of something slower on which the function may depend.
        """
        middle, square = mean(values, level=level), mean((values - values.mean()) ** 2, level=level)
        low, value, high = (
            math.sqrt(max(end, 0.0)) for end in (square.low, square.value, square.high)
        )
        spread = Estimate.interval(
            value,
            low,
            high,
            level=level,
            method=f"root of the mean square: {square.method}",
            samples=square.samples,
        )
        # A function may depend on what moves more slowly than itself.
        effective = min(size_of_one(values), slowest)
        if not effective >= ENOUGH:
            further = (
                math.ceil(every * len(values) * (ENOUGH / effective - 1)) if effective > 0 else None
            )
            words = f"fewer than {ENOUGH} effective draws"
            middle = spread = Estimate.unknown(
                level=level, method=words, samples=len(values), needed=further
            )
        exact = known if isinstance(known, tuple) else (known, None)
        return cls(middle, spread, effective, *exact)

    def __str__(self) -> str:
        if self.mean.tells:
            return f"mean {self.mean}, spread {self.spread}"
        if math.isnan(self.effective):
            return "cannot tell: fewer than 4 draws"
        return f"cannot tell: {significant(self.effective)} effective draws, fewer than {ENOUGH}"


# Makes the sampler of a chain from its parameters and its seed.
MakeSampler = Callable[[list[nn.Parameter], int], Sampler]


@dataclass(frozen=True)
class Sampled:
    """The result of one chain of a sampler. Temperatures are in posterior units.

    Args:
        asked: The temperature T asked for.
        measured: E[(Φ − c)·∇U]/d, with c the mean of the run.
        bounds: The same at 99 %, for the verdict.
        shape: The temperature by direction, by parameter tensor and in the tail, at 99 %.
        injected: The temperature of the injected noise at the end.
        own: The heat of SGD itself, over the sampler's memory.
        minibatch: The part of it that is mini-batch noise.
        moments: The moments of every function.
        draws: The draws of every function.
    """

    asked: float
    measured: Estimate
    bounds: Estimate
    shape: Shape
    injected: float
    own: Estimate
    minibatch: Estimate
    moments: Mapping[str, Moment]
    draws: Mapping[str, Float[np.ndarray, " draws"]]

    @property
    def kept(self) -> bool:
        """True if T is kept in the mean, in the hottest and coldest direction, in every tensor and
        in the tail.

        The mean must not differ significantly from T, at 99 %; the others not significantly by more
        than 5 %.
        """
        return self.bounds.low <= self.asked <= self.bounds.high and not self.differing

    @property
    def differing(self) -> list[str]:
        """The directions, tensors and the tail that differ significantly from T by
        more than 5 %."""
        return self.shape.differing(self.asked) if self.asked > 0 else []

    @property
    def verdict(self) -> str:
        """Sentences: if the temperature was kept, and if not, what to change; and if the run was
        too short."""
        return f"{self._of_temperature} {self._too_short}".rstrip()

    @property
    def _too_short(self) -> str:
        """What functions without an interval need."""
        short = [each for each in self.moments.values() if not each.effective >= ENOUGH]
        needed = max((each.mean.needed or 0 for each in short), default=0)
        if not short:
            return ""
        found = (
            f"The draws tell nothing about {len(short)} of "
            f"{counted(len(self.moments), 'function')}: use"
        )
        if not needed:
            return f"{found} more steps, or fewer between two draws."
        return (
            f"{found} {about(needed)} more steps at least, or a larger batch with a larger "
            "learning rate."
        )

    @property
    def _of_temperature(self) -> str:
        if not self.measured.tells:
            return "The temperature is not known yet: use more steps."
        by_direction = f"coldest direction {self.shape.coldest}, hottest {self.shape.hottest}"
        if self.kept:
            return (
                f"No difference from the temperature asked for was found: mean {self.bounds}, "
                f"{by_direction}, tail {self.shape.tail}, all at 99 %."
            )
        if self.bounds.high < self.asked:
            return (
                "The chain is colder than asked for: it still spreads along directions that are "
                "slower than the run, so its draws do not represent the posterior. Use more steps "
                "or a larger learning rate."
            )
        if self.bounds.low > self.asked:
            return (
                "The chain is hotter than asked for. Use a longer burn-in and `hold`, which "
                "subtracts the heat of SGD."
            )
        return (
            "The mean temperature is as asked for, but the shape is not: "
            f"{'; '.join(self.differing)}, at 99 %. If it is too cold, use more steps; if too hot, "
            "a smaller learning rate or a larger batch."
        )

    def to_dict(self) -> dict[str, Any]:
        """All fields but the draws, as printed by `--json`."""
        moments = {
            name: {
                "mean": m.mean.to_dict(),
                "spread": m.spread.to_dict(),
                "effective": m.effective,
                "known": m.known,
                "known_spread": m.known_spread,
            }
            for name, m in self.moments.items()
        }
        names = ("measured", "bounds", "own", "minibatch")
        shape = {name: each.to_dict() for name, each in self.shape.named.items()}
        estimates = {name: getattr(self, name).to_dict() for name in names}
        return {
            "asked": self.asked,
            "injected": self.injected,
            "kept": self.kept,
            "shape": shape,
            **estimates,
        } | {"moments": moments}


@bounded
def sample(
    model: Callable[[], nn.Module],
    loss: Loss,
    data: Batch,
    sampler: MakeSampler,
    *,
    batch_size: int,
    steps: int,
    burn_in: int,
    every: int = 10,
    watch: Mapping[str, tuple[Function, Batch]] | None = None,
    known: Mapping[str, Known] | None = None,
    seeds: Sequence[int] = (0,),
    draw: Draw = Draw.REPLACEMENT,
    level: float = LEVEL,
    pool: str | Pool = "here",
) -> list[Sampled]:
    """Run independent chains of a sampler, discard the first steps, and measure the rest.

    The temperature is the configurational one, ⟨(Φ − c)·∇U⟩/d, with c the mean of the measured
    steps. By the heat balance it equals the heat put in minus the drift of the chain. Directions
    slower than the run have not reached their temperature, so it is biased low.

    In 600 runs of 480 steps on a conjugate Gaussian, at nominal 90 %, the interval of the
    temperature covered in 92 % with SGLD and SGHMC. With SGNHT it was 96 %: the thermostat corrects
    errors of the very number that is measured, so the mean is more certain than stated. Means
    covered in 90 to 92 %, spreads in 89 to 90 %. A function with fewer than 30 effective draws has
    no interval, as a chain that is too short for a slow direction cannot know its error. Up to 32
    parameters the slowest direction of the parameters counts for every function: until a chain has
    explored it, a function does not show how much it depends on it.

    Args:
        model: Makes the model of a chain from torch's global random numbers, which are seeded and
            restored.
        loss: Called as `loss(model, batch)`.
        data: The training examples: a tree of tensors whose first axis is the example, or
            `Examples`.
        sampler: Makes a sampler with one parameter group from (parameters, seed).
        batch_size: B.
        steps: Measured steps of each chain.
        burn_in: Steps before the measurement.
        every: Steps between two draws.
        watch: Functions of (model, batch) with their batch, whose means are drawn, in eval mode.
        known: Exact means of functions, or pairs of mean and standard deviation, if they are known.
        seeds: For each chain, the seed of its start, batches and noise.
        draw: How batches are drawn: independently, or in reshuffled epochs.
        level: Confidence level of all intervals.
        pool: Where the chains run: "here", "processes", "processes:4", "ray", or a `Pool`, whose
            processes share them.

    Raises:
        BadArgument: A setting is invalid, SGD alone is hotter than the temperature asked for, or
            something cannot be sent to a process.
        Diverged: Parameters or gradients are not finite.

    Example: the mean of 100 numbers of unit variance. The posterior is N(3.037, 1/100).
        >>> import torch
        >>> from gradiometer import SGHMC, supervised
        >>> from gradiometer.exploration.chains import sample
        >>> data = torch.ones(100, 1), 3 + torch.randn(100, 1, generator=torch.Generator().manual_seed(0))
        >>> loss = supervised(lambda outputs, targets: (outputs - targets).square().flatten() / 2)
        >>> (found,) = sample(
        ...     lambda: torch.nn.Linear(1, 1, bias=False), loss, data,
        ...     lambda params, seed: SGHMC(params, lr=0.1, examples=100, seed=seed),
        ...     batch_size=50, steps=400, burn_in=50, every=2, watch={"mean": (lambda model, _: model.weight, data)},
        ... )
        >>> print(found.moments["mean"].mean)
        3.04 [3.02, 3.05]
    """
    for name, value, least in (
        ("burn_in", burn_in, 0),
        ("steps", steps, 2 * BLOCKS),
        ("every", every, 1),
    ):
        check_whole(name, value, least)
    with opened(pool) as where:
        if len(seeds) > 1 and not isinstance(where, Here):
            some = partial(
                sample,
                model,
                loss,
                data,
                sampler,
                batch_size=batch_size,
                steps=steps,
                burn_in=burn_in,
                every=every,
                watch=watch,
                known=known,
                draw=draw,
                level=level,
            )
            # As many jobs as workers: chains of one job share their products.
            parts = np.array_split(np.asarray(seeds), min(where.size, len(seeds)))
            jobs = [
                Job(
                    f"chains of seeds {part[0]} to {part[-1]}",
                    lambda some, seeds: some(seeds=seeds),
                    (part.tolist(),),
                )
                for part in parts
            ]
            return [each for part in where.results(jobs, shared=some) for each in part]
    if hasattr(data, "batch"):
        batch_at, examples = data.batch, len(data)
    else:
        batch_at, examples = partial(take, data), size_of(data)
    orders = [Order(draw, examples, batch_size, seed) for seed in seeds]
    models = make_models(model, seeds)
    samplers = [sampler(trainable(model), seed) for model, seed in zip(models, seeds, strict=True)]
    names = [name for name, parameter in models[0].named_parameters() if parameter.requires_grad]
    sizes = [parameter.numel() for parameter in trainable(models[0])]
    virials = [Virial(flat(trainable(model)).detach(), steps, sizes) for model in models]
    equipartitions: dict[int, Equipartition] = {}
    groups = samplers[0].param_groups
    if len(groups) > 1:
        raise BadArgument(f"`sampler` must have 1 parameter group, got {len(groups)}.")
    chains = ChainState(models, seeds, samplers)
    draws: dict[str, list[np.ndarray]] = {name: [] for name in watch or {}}
    paths: list[Float[Tensor, "chains params"]] = []
    example = batch_at(orders[0].batch(0))
    traits = Objective(models[0], loss).traits(example)
    engine = faster_engine(chains, loss, batch_at, example, traits)

    def measure(place: int, gradients: Sequence[Tensor]) -> None:
        position = flat(chains.of_one[place]).detach()
        gradient = flat(gradients).detach() + groups[0]["weight_decay"] * position
        virials[place].add(position, gradient)
        if place not in equipartitions:
            directions = watched_directions(samplers[place].hottest_directions[0], position)
            equipartitions[place] = Equipartition(directions, position, steps)
        equipartitions[place].add(position, gradient)

    # Half batches show mini-batch noise only if the loss is a fixed function of independent draws.
    halved = (
        groups[0]["temperature"] > 0
        and draw is Draw.REPLACEMENT
        and batch_size >= 4
        and traits.fixed
    )
    batches = (
        index
        for epoch in itertools.count()
        for index in torch.stack([order.epoch(epoch) for order in orders]).split(batch_size, dim=1)
    )
    for step in range(burn_in + steps):
        if step == burn_in:
            # Only the steps that are measured pay for the sums.
            chains.before_step = measure
        index = next(batches)
        # A pair costs another step, so there is one in 20 steps.
        if halved and step % 20 == 0:
            first, second = (engine.gradients(half) for half in index.chunk(2, dim=1))
            for place, each in enumerate(samplers):
                each.halves(
                    [gradient[place] for gradient in first],
                    [gradient[place] for gradient in second],
                )
        engine.step(index)
        if step >= burn_in and (step - burn_in) % every == 0:
            for name, looked_at in (watch or {}).items():
                draws[name].append(chain_means(models, *looked_at))
            if sum(sizes) <= DIRECTIONS:
                paths.append(torch.stack([flat(one) for one in chains.of_one]).detach())
    return [
        _of_chain(
            each,
            virial,
            equipartitions[place].shape(
                examples, dict(zip(names, virial.by_tensor(examples, SURE), strict=True))
            ),
            {name: np.stack(values)[:, place] for name, values in draws.items()},
            partial(
                Moment.of,
                level=level,
                every=every,
                slowest=size_of_slowest([path[place] for path in paths]),
            ),
            known or {},
            level,
        )
        for place, (each, virial) in enumerate(zip(samplers, virials, strict=True))
    ]


def agreement(chains: Sequence[Sampled], level: float = LEVEL) -> list[Mixing]:
    """R-hat and effective sample sizes of every function that varies. Empty for a single chain."""
    # One chain cannot show that it has not mixed with another.
    if len(chains) < 2:
        return []
    draws = {
        name: np.stack([each.draws[name] for each in chains], axis=1) for name in chains[0].draws
    }
    return mixing({name: values for name, values in draws.items() if np.ptp(values) > 0}, level)


def _of_chain(
    sampler: Sampler,
    virial: Virial,
    shape: Shape,
    draws: Mapping[str, Float[np.ndarray, " draws"]],
    moment: Callable[..., Moment],
    known: Mapping[str, Known],
    level: float,
) -> Sampled:
    balance, examples = sampler.balance[0], sampler.param_groups[0]["examples"]
    return Sampled(
        asked=balance.asked,
        measured=virial.temperature(examples, level),
        bounds=virial.temperature(examples, SURE),
        shape=shape,
        injected=balance.injected,
        own=balance.own,
        minibatch=balance.minibatch,
        moments={name: moment(values, known.get(name)) for name, values in draws.items()},
        draws=draws,
    )
