"""A word before training starts: is the learning rate above the edge where it starts?"""

from gradiometer.drift.curvature import AT_ONCE, Curvature
from gradiometer.drift.stability import PLAIN, Momentum, largest_stable_rate, stability_limit
from gradiometer.measurement.batch import Batch
from gradiometer.measurement.estimate import significant
from gradiometer.measurement.objective import Objective


def edge_warning(
    objective: Objective,
    batch: Batch,
    *,
    learning_rate: float,
    kind: Momentum = PLAIN,
    weight_decay: float = 0.0,
    seed: int = 0,
) -> str | None:
    """One sentence if η λ_max is above its limit at the model's parameters, else None. Never a refusal.

    λ_max is that of the examples given, to a residual of 1 %: about ten to twenty gradients of them. A few hundred
    examples do. Training's parameters, `.grad`, buffers and random states are left alone.

    Args:
        objective: The model and its loss, at the start.
        batch: Examples, a few hundred.
        learning_rate: η of the first step.
        kind: Plain, heavy-ball or Nesterov.
        weight_decay: Added to the curvature.
        seed: Of the random start of Lanczos.
    """
    sharpness = Curvature.of(objective, batch, at_once=AT_ONCE, seed=seed).eigenvalues().sharpness
    limit = stability_limit(learning_rate, kind, weight_decay=weight_decay)
    if not sharpness.low > limit:
        return None
    rate = largest_stable_rate(sharpness, kind, weight_decay=weight_decay)
    return (
        f"the learning rate {significant(learning_rate)} is {significant(sharpness.value / limit, 2)} times beyond "
        f"the edge of stability at the start (sharpness {sharpness}, {kind.words} = {significant(limit)}): on a "
        f"quadratic the loss would diverge, a network often finds a flatter region first; if it diverges, try --lr "
        f"{rate.low:.2g} or a warm-up."
    )
