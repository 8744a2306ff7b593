"""Measures a certificate: the gradient of the training loss and its lowest curvature, from all
examples or some."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from gradiometer.arguments import check_level, check_number, check_whole
from gradiometer.convergence.certificate.certificate import TOLERANCE, Certificate
from gradiometer.convergence.certificate.gradient_norm import FEWEST_BATCHES, UNIT, squared_norm
from gradiometer.convergence.certificate.lowest_curvature import (
    LowestCurvature,
    of_all_examples,
    of_samples,
)
from gradiometer.drift.curvature import AT_ONCE, Curvature
from gradiometer.errors import BadArgument, Diverged, bounded
from gradiometer.measurement.batch import Batch, TrainingSet, mapped
from gradiometer.measurement.estimate import Estimate
from gradiometer.measurement.gradient_graph import flat
from gradiometer.measurement.objective import Objective
from gradiometer.measurement.reading import Draw, Sampling
from gradiometer.measurement.traits import Traits
from gradiometer.measurement.uncertainty.arithmetic import transform
from gradiometer.randomness import untouched_randomness

BATCHES = 64
"""Batches for the gradient, if it is not exact."""
EXAMPLES = 2048
"""Examples for the curvature; all if there are fewer."""
SAMPLES = 4
"""Independent samples that these are divided into, unless they are all examples."""
KEPT_NUMBERS = 2**28
"""Most numbers in the stored batch gradients, 1 GiB in single precision; above it, several batches
are averaged."""
COLUMNS = 2**20


@bounded
def certify(
    objective: Objective,
    train: TrainingSet,
    start: Estimate,
    *,
    exact: bool = False,
    batches: int = BATCHES,
    batch_size: int = 32,
    examples: int = EXAMPLES,
    weight_decay: float = 0.0,
    tolerance: float = TOLERANCE,
    level: float = 0.95,
    step: int = 0,
    seed: int = 0,
) -> Certificate:
    """Decide if the model's parameters are a minimum, a saddle or not a stationary point of the
    training loss.

    Costs the gradients of `gradient_squared`, and about 60 to 100 Hessian products of `examples`
    examples. The model runs in its current mode and is left unchanged.

    Args:
        objective: The model and its loss.
        train: The training set.
        start: ‖g‖² at the start of training, by `gradient_squared`.
        exact: Use all examples for the gradient.
        batches, batch_size: Otherwise, use this many batches of this size.
        examples: Number of examples for the curvature.
        weight_decay: λ of the penalty; its gradient and curvature are included.
        tolerance: Gradients below this share of the start's, and curvatures below this share of
            λ_max, count as zero.
        level: Confidence level of every interval, and of the verdict.
        step: Training steps so far.
        seed: Seed of everything random.

    >>> from gradiometer.convergence.certificate import certify
    >>> from gradiometer.convergence.certificate.certifying import gradient_squared
    >>> from gradiometer import Objective
    >>> from gradiometer.lab.closed_forms import Quadratic
    >>> problem = Quadratic([1.0, 4.0], [1.0, 1.0]).problem(examples=100, start=[2.0, 1.0])
    >>> objective = Objective(problem.model(), problem.loss)
    >>> start, _ = gradient_squared(objective, problem.train, exact=True)
    >>> print(certify(objective, problem.train, start, exact=True).verdict)
    not stationary
    """
    squared, gradients = gradient_squared(
        objective,
        train,
        exact=exact,
        batches=batches,
        batch_size=batch_size,
        weight_decay=weight_decay,
        level=level,
        seed=seed,
    )
    check_whole("examples", examples, 1)
    check_level(tolerance, "tolerance")
    curved = min(examples, len(train))
    ends = _curvature(objective, train, curved, tolerance, level, seed)
    return Certificate(
        step=step,
        mode="train" if objective.model.training else "eval",
        gradient_squared=squared,
        start_squared=start,
        lowest=transform(
            ends.lowest, lambda curvature: curvature + weight_decay, unit=ends.lowest.unit
        ),
        largest=transform(
            ends.largest, lambda curvature: curvature + weight_decay, unit=ends.largest.unit
        ),
        gradients=gradients,
        curved=curved,
        of=len(train),
        tolerance=tolerance,
        level=level,
    )


def gradient_squared(
    objective: Objective,
    train: TrainingSet,
    *,
    exact: bool = False,
    batches: int = BATCHES,
    batch_size: int = 32,
    weight_decay: float = 0.0,
    level: float = 0.95,
    seed: int = 0,
    at: Sequence[Tensor] | None = None,
) -> tuple[Estimate, int]:
    """‖g‖² of the training loss including weight decay, and the number of examples behind it.

    Exact, from a pass over all examples, if `exact` or if the batches would take as many; otherwise
    from batches that share no example, by `gradient_norm.squared_norm`. If the loss or the data
    draw random numbers (Dropout, augmentation), or the loss couples the examples of a batch
    (BatchNorm), there is no exact pass: the training loss is then a mean over infinitely many
    batches, and the batches are drawn independently. Arguments as in `certify`, and
    `at`: parameters in place of the model's own.

    Raises:
        BadArgument: `exact` is True and there is no exact pass.
        Diverged: A gradient is not finite.
    """
    check_whole("batches", batches, FEWEST_BATCHES)
    check_number("weight_decay", weight_decay)
    check_level(level)
    check_whole("seed", seed, 0)
    check_whole("batch_size", batch_size, 1)
    if not isinstance(exact, bool):
        raise BadArgument(f"`exact` must be True or False, got {exact!r}.")
    if not 1 <= batch_size <= len(train):
        raise BadArgument(
            f"`batch_size` must lie between 1 and the {len(train):,} examples, got {batch_size}."
        )
    why = _without_full_pass(objective, train, batch_size, seed)
    if exact and why:
        # NaN differs from itself, so a diverged model looks like one with random numbers or coupled
        # examples.
        _check_finite(
            flat(objective.gradient(train.batch(torch.arange(batch_size)), at=at, seed=seed))
        )
        raise BadArgument(
            f"`exact` needs a loss that is a fixed function of the examples, but {why}: leave it "
            "out."
        )
    decay = weight_decay * flat(objective.parameters if at is None else at).detach().double()
    if exact or (not why and batches * batch_size >= len(train)):
        gradient = decay + _full_gradient(objective, train, seed, at)
        _check_finite(gradient)
        return Estimate.exact(float(gradient @ gradient), unit=UNIT), len(train)
    generator = torch.Generator().manual_seed(seed)
    if why:
        drawn = [
            torch.randperm(len(train), generator=generator)[:batch_size] for _ in range(batches)
        ]
        sampling = Sampling(Draw.FRESH)
    else:
        drawn = list(
            torch.randperm(len(train), generator=generator)[: batches * batch_size].split(
                batch_size
            )
        )
        sampling = Sampling(Draw.RESHUFFLED, len(train))
    rows, each = _rows(objective, train, drawn, seed, at)
    rows += decay.to(rows)
    squared = squared_norm(_gram(rows), each * batch_size, sampling, level)
    return squared, len(rows) * each * batch_size


def _check_finite(gradient: Float[Tensor, " params"]) -> None:
    if not bool(torch.isfinite(gradient).all()):
        raise Diverged("A gradient of the training loss is not finite: training has diverged here.")


def _without_full_pass(objective: Objective, train: TrainingSet, batch_size: int, seed: int) -> str:
    """The reason why the training loss is not a fixed sum over the examples; empty if it is."""
    looked_at = torch.arange(min(max(batch_size, 2), len(train)))
    with untouched_randomness(seed, objective.devices):
        batch = train.batch(looked_at)
    with untouched_randomness(seed + 1, objective.devices):
        again = train.batch(looked_at)
    if not all(
        torch.equal(one, other) for one, other in zip(_leaves(batch), _leaves(again), strict=True)
    ):
        return "the data change each time they are loaded (augmentation)"
    traits: Traits = objective.traits(batch, seed=seed)
    if traits.random:
        return "the loss draws random numbers (Dropout) in this mode"
    return (
        "the loss couples the examples of a batch (batch statistics) in this mode"
        if traits.coupled
        else ""
    )


def _leaves(batch: Batch) -> list[Tensor]:
    found: list[Tensor] = []
    mapped(batch, found.append)
    return found


def _full_gradient(
    objective: Objective, train: TrainingSet, seed: int, at: Sequence[Tensor] | None
) -> Float[Tensor, " params"]:
    """g, summed in double precision."""
    total = torch.zeros_like(flat(objective.parameters), dtype=torch.float64)
    # 1000: examples per batch of a full pass.
    for index in torch.arange(len(train)).split(1000):
        gradient = flat(objective.gradient(train.batch(index), at=at, seed=seed)).double()
        total += gradient * (len(index) / len(train))
    return total


def _rows(
    objective: Objective,
    train: TrainingSet,
    drawn: list[Int[Tensor, " chosen"]],
    seed: int,
    at: Sequence[Tensor] | None,
) -> tuple[Float[Tensor, "batches params"], int]:
    """The gradient of every batch, or means of consecutive ones if the model is large; and how many
    each averages."""
    room = max(KEPT_NUMBERS // objective.dimension, FEWEST_BATCHES)
    each = -(-len(drawn) // room)
    rows = flat(objective.parameters).detach().new_zeros(len(drawn) // each, objective.dimension)
    for place in range(len(rows) * each):
        with untouched_randomness(seed + place, objective.devices):  # augmentation draws
            batch = train.batch(drawn[place])
        rows[place // each] += flat(objective.gradient(batch, at=at, seed=seed + place)) / each
    return rows, each


def _gram(rows: Float[Tensor, "batches params"]) -> Float[np.ndarray, "batches batches"]:
    """⟨ĝ_i, ĝ_j⟩ in double precision, in blocks of parameters."""
    total = rows.new_zeros(len(rows), len(rows), dtype=torch.float64)
    for columns in rows.split(COLUMNS, dim=1):
        total += columns.double() @ columns.double().T
    gram: np.ndarray = total.cpu().numpy()
    return gram


def _curvature(
    objective: Objective,
    train: TrainingSet,
    examples: int,
    tolerance: float,
    level: float,
    seed: int,
) -> LowestCurvature:
    """λ_min and λ_max, from all examples if `examples` asks for all, else from independent samples
    of them."""
    resolution = tolerance / 2
    if examples == len(train):
        batches = [train.batch(part) for part in torch.arange(examples).split(AT_ONCE)]
        return of_all_examples(
            Curvature(objective, batches, seed=seed), resolution=resolution, level=level
        )
    if not examples >= 4 * SAMPLES:
        raise BadArgument(
            f"`examples` must be at least {4 * SAMPLES}, or all {len(train):,}, got {examples}."
        )
    chosen = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed + 1))[
        :examples
    ]
    size = examples // SAMPLES
    samples = [
        [train.batch(part) for part in sample.split(max(min(AT_ONCE, size // 2), 1))]
        for sample in chosen[: SAMPLES * size].split(size)
    ]
    return of_samples(objective, samples, resolution=resolution, level=level, seed=seed)
