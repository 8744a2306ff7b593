"""Is the model of a watched loop at a minimum, at a saddle, or not at a stationary point?"""

from collections.abc import Sequence
from typing import Any

import torch

from gradiometer.convergence.certificate.certificate import CERTAINTY, TOLERANCE, Certificate
from gradiometer.convergence.certificate.certifying import BATCHES, EXAMPLES, UNIT, gradient_squared
from gradiometer.convergence.certificate.certifying import certify as certificate_of
from gradiometer.errors import BadArgument
from gradiometer.estimation.noise import GradientNoise, of_the_gradient_meant
from gradiometer.estimation.products import source_of
from gradiometer.integrations.watch.requests.request import Request
from gradiometer.measurement.estimate import Estimate
from gradiometer.measurement.uncertainty.means import mean
from gradiometer.run.reader import Run

# Optimizers whose `weight_decay` is the gradient of a penalty. In AdamW, a subclass of Adam, it is
# not.
PENALTIES = (torch.optim.SGD, torch.optim.Adam, torch.optim.RMSprop, torch.optim.Adagrad)


def certify(
    request: Request,
    train: Any,
    *,
    exact: bool = False,
    batches: int = BATCHES,
    batch_size: int | None = None,
    examples: int = EXAMPLES,
    weight_decay: float | None = None,
    tolerance: float = TOLERANCE,
    level: float = CERTAINTY,
    start: Estimate | None = None,
    seed: int = 0,
) -> Certificate | None:
    """Decide if the model is now at a minimum, a saddle, or not at a stationary point of the
    training loss.

    The model runs in its present mode: call `model.eval()` before to leave Dropout and batch
    statistics out.

    Args:
        train: The training examples: a tree of tensors, a map-style data set, or a DataLoader.
        exact: Use all examples for the gradient.
        batches, batch_size: Otherwise, use this many batches of this size. Default: the batch
            size of training.
        examples: Number of examples for the curvature.
        weight_decay: λ of the penalty in the loss. Default: that of SGD, Adam, RMSprop or
            Adagrad, and 0 for other optimizers, in which the decay is not part of the gradient.
        tolerance: Gradients below this share of the one at the start, and curvatures below this
            share of λ_max, count as zero.
        level: Confidence level of every interval, and of the verdict.
        start: ‖g‖² at the start, by `gradient_squared` of
            `gradiometer.convergence.certificate.certifying`.
            Default: it is measured at the parameters of the first step, which are kept for
            models of up to 16 million; above that and in a continued run, the mean of the first
            8 readings of the noise.
        seed: Seed of the batches and the random vectors.

    Raises:
        BadArgument: An argument is invalid, there was no step yet, or `start` is missing.
        Unsupported: The model is sharded.

    Example:
        >>> import torch
        >>> from gradiometer import supervised, watch
        >>> train, model = (torch.ones(16, 1), torch.arange(16.0)[:, None]), torch.nn.Linear(1, 1, bias=False)
        >>> _ = torch.nn.init.zeros_(model.weight)
        >>> loss, optimizer = supervised(torch.nn.MSELoss()), torch.optim.SGD(model.parameters(), lr=0.1)
        >>> with watch(model, optimizer, loss=loss, every=1, page=False, quiet=True) as w:
        ...     for _ in range(100):
        ...         optimizer.zero_grad()
        ...         value = loss(model, train)
        ...         value.backward()
        ...         w.step(value, train)
        ...         optimizer.step()
        ...     print(w.certify(train, exact=True).verdict)
        minimum
    """
    with request.looking() as run:
        if run is None:
            return None
        data = request.on_device(train)
        size = min(run.configuration.batch_size, len(data)) if batch_size is None else batch_size
        decay = _penalty(request.subject.optimizers) if weight_decay is None else weight_decay
        gradient: dict[str, Any] = {
            "exact": exact,
            "batches": batches,
            "batch_size": size,
            "weight_decay": decay,
            "level": level,
        }
        if not start and request.at_start is None:
            start = _start_of(run, level)
        elif not start:
            at = [kept.to(data.device) for kept in request.at_start or ()]
            start, *_ = gradient_squared(request.objective, data, seed=seed, at=at, **gradient)
        certificate = certificate_of(
            request.objective,
            data,
            start,
            examples=examples,
            tolerance=tolerance,
            step=request.steps,
            seed=seed + 1,
            **gradient,
        )
        request.keep(run, certificate)
        return certificate


def _penalty(optimizers: Sequence[torch.optim.Optimizer]) -> float:
    """λ of the loss that the optimizer trains."""
    groups = [(type(one), group) for one in optimizers for group in one.param_groups]
    found = {
        float(group.get("weight_decay", 0.0))
        if issubclass(kind, PENALTIES) and kind is not torch.optim.AdamW
        else 0.0
        for kind, group in groups
    }
    if len(found) > 1:
        raise BadArgument(
            "`weight_decay` differs between the parameter groups "
            f"({', '.join(map(str, sorted(found)))}): give the one of the loss to certify, "
            "such as weight_decay=0."
        )
    return found.pop()


def _start_of(run: Run, level: float) -> Estimate:
    """‖g‖² at the start, from the first readings of the noise."""
    series = run.series(GradientNoise.name)
    why = "the run has no readings of the noise"
    if series is not None:
        first = series[:8]
        source = source_of(first)
        _, norm_squared, _ = of_the_gradient_meant(
            source.variance, source.norm_squared, first, "train"
        )
        found = mean(norm_squared.sum(axis=1), level=level, unit=UNIT)
        if found.low > 0:
            return found
        why = f"the first {len(first)} readings of the noise do not show it ({found})"
    raise BadArgument(
        f"`start` is missing, and {why}: give start=gradient_squared(Objective(model, loss), "
        "Examples(train))[0], measured before training."
    )
