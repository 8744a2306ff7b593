"""The weights with which several predictors predict best together."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from gradiometer.errors import BadArgument
from gradiometer.exploration.ensembles.calibration import Labels, LogProbabilities
from gradiometer.exploration.ensembles.scores import check_predictions, log_losses

ENOUGH, MOST = 1e-9, 1000
"""Fall of the log-loss in a step of the fit, in nats, below which it ends; and the most steps."""


def mixture_weights(members: Sequence[LogProbabilities], labels: Labels) -> Float[np.ndarray, " members"]:
    """The weights, not negative and with sum 1, whose weighted mean of probabilities has the lowest log-loss.

    The log-loss is convex in the weights, so that they are the best there are on these examples. Fit them on examples
    that are not scored.

    Raises:
        BadArgument: There are no members, or their log-probabilities cannot be used.

    Example:
        >>> import numpy as np
        >>> from gradiometer.exploration.ensembles import mixture_weights
        >>> labels = np.array([0, 0, 0, 1])
        >>> members = [np.log(np.tile(row, (4, 1))) for row in ([0.9, 0.1], [0.5, 0.5])]
        >>> print(mixture_weights(members, labels).round(3))  # the mean is then [0.75, 0.25], as the labels are
        [0.625 0.375]

    Source: expectation and maximisation for the shares of a mixture: Dempster, Laird & Rubin (1977), Maximum Likelihood
    from Incomplete Data via the EM Algorithm, section 4.3.
    """
    if not members:
        raise BadArgument("`members` must be at least 1, got none.")
    for member in members:
        check_predictions(member, labels)
    likelihoods = np.exp(-np.stack([log_losses(member, labels) for member in members]))
    weights, before = np.full(len(members), 1 / len(members)), np.inf
    for _ in range(MOST):
        mixed = weights @ likelihoods
        if not before - (loss := -float(np.log(mixed).mean())) > ENOUGH:
            break
        weights, before = weights * (likelihoods / mixed).mean(axis=1), loss
    return weights
