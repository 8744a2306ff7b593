"""Measures a certificate: the gradient of the training loss and its lowest curvature, from all
examples or some.

The norm of a mean batch gradient is biased: E‖mean‖² = ‖g‖² + tr Σ/(nB), which at a minimum is all
noise. The mean inner product of *different* batches is unbiased.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from gradiometer.arguments import check_level, check_number, check_whole
from gradiometer.convergence.certificate.certificate import CERTAINTY, TOLERANCE, Certificate
from gradiometer.convergence.certificate.lowest_curvature import (
    of_all_examples,
    of_samples,
)
from gradiometer.drift.curvature import AT_ONCE, Curvature
from gradiometer.errors import BadArgument, Diverged, bounded
from gradiometer.measurement import Draw, Estimate, Objective, Sampling
from gradiometer.measurement.batch import TrainingSet, leaves
from gradiometer.measurement.gradient_graph import flat
from gradiometer.measurement.objective import Traits
from gradiometer.measurement.uncertainty.arithmetic import transform
from gradiometer.measurement.uncertainty.means import student_quantile
from gradiometer.randomness import untouched_randomness

UNIT = "(loss / parameter)²"

# With fewer batches, their spread is too uncertain for an interval.
FEWEST_BATCHES = 8


def squared_norm(
    gram: Float[np.ndarray, "batches batches"],
    batch_size: int,
    sampling: Sampling,
    level: float = CERTAINTY,
) -> Estimate:
    """‖g‖², g the gradient over the training set (or the population), from the inner products of
    batch gradients.

    U = mean of ⟨ĝ_i, ĝ_j⟩ over i ≠ j is unbiased for independent batches. Batches that share no
    example are slightly less alike, ⟨ĝ_i, ĝ_j⟩ = ‖g‖² − tr Σ/N on average, and tr Σ/B = mean ‖ĝ_i‖²
    − U corrects for that: the estimate is U + (B/N)(mean ‖ĝ_i‖² − U), which is exact when the
    batches contain all examples.

    Its variance depends on ‖g‖² itself: Var U = 4 gᵀCg/n + 2 tr C²/n², C the covariance of ĝ_i, and
    gᵀCg is proportional to ‖g‖². So the interval contains every θ with |U − θ| ≤ q √(aθ + c), with
    Student's q, a from the variance of ĝ_i along their mean and c from tr C². The jackknife's
    standard error at U is too small when U is too
    small by chance: in simulation, at nominal 97.5 %, its upper end covered in 88 to 97 %, this one
    in 97 to 100 %. On lognormal gradients, which are strongly skewed, this one covered in at least
    91 % (the jackknife's: 84 to 93 %). If ‖g‖² = 0, U is skewed, more so if the noise has few
    directions, and the lower end is too high in 4 to 6 % with 64 batches, in 3 to 8 % with 16 and
    in 3 to 10 % with 8, at nominal 2.5 %.

    U may be negative, and then the lower end is too. The upper end then starts from 0, so that it
    is never below the one for U = 0.

    Args:
        gram: ⟨ĝ_i, ĝ_j⟩ of at least 8 batches, all of the same size.
        batch_size: B.
        sampling: RESHUFFLED of N: the batches share no example; otherwise they are independent
            draws.
        level: Confidence level of the interval, with equal tails.

    Raises:
        Diverged: An inner product is not finite.

    Source: Hoeffding (1948), A Class of Statistics with Asymptotically Normal Distribution;
        inverted as Wilson (1927) does; sampling without replacement: Cochran (1977), Sampling
        Techniques, ch. 2.

    >>> import numpy as np
    >>> from gradiometer.convergence.certificate.certifying import squared_norm
    >>> from gradiometer.measurement import Draw, Sampling
    >>> gradients = np.array([3.0, 4.0]) + np.random.default_rng(0).standard_normal((64, 2))
    >>> print(squared_norm(gradients @ gradients.T, batch_size=32, sampling=Sampling(Draw.FRESH)))
    26.0 [23.5, 28.7] (loss / parameter)²
    """
    count = len(gram)
    if not count >= FEWEST_BATCHES:
        raise BadArgument(
            f"`gram` must be of at least {FEWEST_BATCHES} batches to measure their spread, got "
            f"{count}."
        )
    if not np.isfinite(gram).all():
        raise Diverged("A gradient of the training loss is not finite: training has diverged here.")
    whole = sampling.examples if sampling.draw is Draw.RESHUFFLED else None
    share = 0.0 if whole is None else batch_size / whole
    own = np.diag(gram)
    # A batch with itself would add its noise.
    pairs = float(gram.sum() - own.sum()) / (count * (count - 1))
    value = pairs + share * (float(own.mean()) - pairs)
    left = 1 - count * share  # share of the examples that no batch contains
    # a and c of Var U = a‖g‖² + c: 4/n times the variance of ĝ_i along their mean, and 2 tr C²/n².
    rows = gram.mean(axis=1)
    squared_mean = float(rows.mean())
    spread = float(rows.var(ddof=1)) / squared_mean if squared_mean > 0 else 0.0
    centred = gram - rows[:, None] - rows[None, :] + squared_mean
    # A batch with itself would add its own fourth moment.
    np.fill_diagonal(centred, 0.0)
    square = float(np.square(centred).sum()) / (count * (count - 1))
    along = left * 4 * spread / count
    across = left * 2 * square / count**2
    quantile = student_quantile(level, count - 1)
    low, _ = _within(value, along, across, quantile)
    _, high = _within(max(value, 0.0), along, across, quantile)
    return Estimate.interval(
        value,
        min(low, value),
        high,
        level=level,
        method=f"inner products of {count} batches of {batch_size}",
        samples=count,
        unit=UNIT,
    )


def _within(value: float, along: float, across: float, quantile: float) -> tuple[float, float]:
    """The ends of all θ with |value − θ| ≤ quantile · √(along · θ + across)."""
    half = quantile**2 * along / 2
    reach = math.sqrt(max(quantile**2 * (along * value + across) + half**2, 0.0))
    return value + half - reach, value + half + reach


# Batches for the gradient, if it is not exact.
BATCHES = 64


# Examples for the curvature; all if there are fewer.
EXAMPLES = 2048

# Independent samples that these are divided into, unless they are all examples; with two, Student's
# quantile is too large to be useful.
SAMPLES = 4

# Most numbers in the stored batch gradients, 1 GiB in single precision; above it, several batches
# are averaged.
KEPT_NUMBERS = 2**28


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
    level: float = CERTAINTY,
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
    >>> from gradiometer_lab.closed_forms import Quadratic
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
    # What Lanczos may miss must stay below the tolerance that it is compared with.
    resolution = tolerance / 2
    if curved == len(train):
        parts = [train.batch(part) for part in torch.arange(curved).split(AT_ONCE)]
        whole = Curvature(objective, parts, seed=seed)
        ends = of_all_examples(whole, resolution=resolution, level=level)
    else:
        if not curved >= 4 * SAMPLES:
            raise BadArgument(
                f"`examples` must be at least {4 * SAMPLES}, or all {len(train):,}, got {curved}."
            )
        generator = torch.Generator().manual_seed(seed + 1)
        size = curved // SAMPLES
        chosen = torch.randperm(len(train), generator=generator)[: SAMPLES * size]
        samples = [
            [train.batch(part) for part in sample.split(max(min(AT_ONCE, size // 2), 1))]
            for sample in chosen.split(size)
        ]
        ends = of_samples(objective, samples, resolution=resolution, level=level, seed=seed)

    def with_decay(end: Estimate) -> Estimate:
        return transform(end, lambda curvature: curvature + weight_decay, unit=end.unit)

    return Certificate(
        step=step,
        mode="train" if objective.model.training else "eval",
        gradient_squared=squared,
        start_squared=start,
        lowest=with_decay(ends.lowest),
        largest=with_decay(ends.largest),
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
    level: float = CERTAINTY,
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
        gradient = decay
        # 1000: examples per batch of a full pass.
        for index in torch.arange(len(train)).split(1000):
            part = flat(objective.gradient(train.batch(index), at=at, seed=seed)).double()
            gradient += part * (len(index) / len(train))
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
    # ⟨ĝ_i, ĝ_j⟩ in blocks of parameters: doubles of a whole model would need twice its memory for
    # every batch.
    gram = rows.new_zeros(len(rows), len(rows), dtype=torch.float64)
    for columns in rows.split(2**20, dim=1):
        gram += columns.double() @ columns.double().T
    squared = squared_norm(gram.cpu().numpy(), each * batch_size, sampling, level)
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
    pairs = zip(leaves(batch, "batch"), leaves(again, "batch"), strict=True)
    if not all(
        torch.equal(one, other) for (_, one), (_, other) in pairs if isinstance(one, Tensor)
    ):
        return "the data change each time they are loaded (augmentation)"
    traits: Traits = objective.traits(batch, seed=seed)
    if traits.random:
        return "the loss draws random numbers (Dropout) in this mode"
    if traits.coupled:
        return "the loss couples the examples of a batch (batch statistics) in this mode"
    return ""


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
