"""Chaos past the edge of stability: steps too long for the curvature that do not blow up, because
it is bounded."""

import numpy as np
from jaxtyping import Float

from gradiometer.convergence.trajectory.endpoint import NAME
from gradiometer.measurement.estimate import Estimate, Estimates
from gradiometer.measurement.finding import Finding, Issue, State
from gradiometer.measurement.uncertainty.means import mean


def chaos_finding(
    share: Estimate | None,
    facts: Estimates,
    losses: Float[np.ndarray, " steps"],
    learning_rate: float,
) -> Finding | None:
    """The finding about chaos past the edge of stability; None if one of its three signs is
    missing.

    The signs: the sharpness is above its limit by more than half, the loss of the last quarter of
    the run is above the best that was reached or no lower than at the start, and a step says little
    about the next one. Each of them alone
    is common in ordinary training: early sharpness, a noisy loss, and noise. If the late loss is
    twice the first one,
    the sharpness is not needed: steps that are too long also reach flat places, where it is small.

    Args:
        share: Measured sharpness over its limit, for example ηλ_max/2; None if it was not measured.
        facts: The numbers about the path, from `facts_of`.
        losses: The loss of every step so far.
        learning_rate: η.

    >>> import numpy as np
    >>> from gradiometer import Estimate
    >>> from gradiometer.convergence.trajectory.chaos import chaos_finding
    >>> facts = {"step_correlation": Estimate.interval(-0.1, -0.2, 0.0, level=0.9, method="mean", samples=20)}
    >>> losses = np.r_[np.linspace(4, 1, 50), np.random.default_rng(0).uniform(1, 7, 450)]
    >>> chaos_finding(Estimate.exact(3.5), facts, losses, 7.0).state.value
    'act'
    >>> chaos_finding(Estimate.exact(1.1), facts, losses, 7.0) is None
    True
    """
    correlation = facts.get("step_correlation")
    # A smooth path has a correlation near 1 between a step and the next, noise has 0.
    if correlation is None or not correlation.high < 0.5:
        return None
    if len(losses) < 64 or not np.isfinite(losses).all():
        return None
    late = mean(losses[-(len(losses) // 4) :], level=0.98)
    first = max(float(losses[0]), 0.0)
    # Steps after which the loss is twice the first one are too long, whatever the sharpness at one
    # point.
    far = late.low > 2 * first > 0
    # Training at the edge of stability stays within 1.2 of it.
    past = share is not None and share.low > 1.5
    # The mean of 8 losses, as the lowest single one may be a lucky batch.
    best = float(np.convolve(losses, np.ones(8) / 8, mode="valid").min())
    # Either training does not keep what it reaches, or it has gained nothing.
    lost = late.low > 1.15 * max(best, 0.0) or late.low > 0.9 * first > 0
    if not (far or (past and lost)):
        return None
    edge = {
        "sharpness_share": share if past else None,
        "learning_rate": learning_rate,
        "times_best": late.value / best if best > 0 else None,
    }
    return Finding(
        NAME, Issue.CONVERGENCE, "chaos", State.ACT, {"step_correlation": correlation}, edge
    )
