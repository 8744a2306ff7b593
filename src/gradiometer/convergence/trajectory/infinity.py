"""Parameters that run to infinity after every example is fitted: the loss has no minimum, and only
the norm grows."""

import numpy as np
from jaxtyping import Float

from gradiometer.convergence.trajectory.endpoint import NAME
from gradiometer.convergence.trajectory.path_facts import NO_END, OUTWARDS
from gradiometer.measurement.estimate import Estimates
from gradiometer.measurement.finding import Finding, Issue, State


def infinity_finding(
    facts: Estimates, losses: Float[np.ndarray, " steps"], weight_decay: float
) -> Finding | None:
    """The finding that the parameters run to infinity; None if one of its three signs is missing.

    The signs: ‖Φ‖ has grown in each of the last four doublings of time, not by clearly less each
    time, in the direction in which it points; the loss was already below 2 % of its first value
    before a quarter of the run; and it has at least halved since. Weight decay ends this, so with
    it there is no finding.

    Args:
        facts: The numbers about the path, from `facts_of`.
        losses: The loss of every step so far.
        weight_decay: The largest weight decay of the parameters.

    >>> import numpy as np
    >>> from gradiometer import Estimate
    >>> from gradiometer.convergence.trajectory.infinity import infinity_finding
    >>> facts = {"norm_growth": Estimate.exact(0.1), "alignment": Estimate.exact(0.8)}
    >>> losses = 2.3 / (1 + np.arange(4000))
    >>> infinity_finding(facts, losses, 0.0).state.value
    'look'
    >>> infinity_finding(facts, losses, 0.01) is None
    True
    """
    growth, alignment = facts.get("norm_growth"), facts.get("alignment")
    if growth is None or alignment is None or weight_decay > 0:
        return None
    if not (growth.high > NO_END and alignment.value >= OUTWARDS):
        return None
    steps = len(losses)
    if steps < 64 or not np.isfinite(losses).all():
        return None
    first, early, late = (
        losses[:8].mean(),
        losses[steps // 8 : steps // 4].mean(),
        losses[-(steps // 4) :].mean(),
    )
    # 0.02: share of the first loss below which every example is fitted, more or less.
    # 0.5: the loss of the last quarter of the run is below this share of the loss when the examples
    # were fitted: it goes on.
    if not (0 < early < 0.02 * first and late < 0.5 * early):
        return None
    shares = {
        "early_share": float(early / first),
        "late_share": float(late / first),
        "early_until": steps // 4,
    }
    return Finding(
        NAME, Issue.CONVERGENCE, "path_to_infinity", State.LOOK, {"norm_growth": growth}, shares
    )
