"""Forecast the loss of an ensemble of many members from a few of them."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from gradiometer.arguments import check_whole
from gradiometer.errors import BadArgument
from gradiometer.exploration.ensembles.calibration import Labels, LogProbabilities
from gradiometer.exploration.ensembles.scores import Predictions, averaged, fitted_temperature

LOSSES = ("brier", "nll", "calibrated_nll")
"""Scores that are means over examples of a smooth loss."""


def member_losses(
    members: Sequence[LogProbabilities], labels: Labels, score: str = "brier"
) -> Float[np.ndarray, "members examples"]:
    """The loss of every member alone, for every example. A temperature is fitted on the same examples."""
    return np.stack([_losses(member, labels, score) for member in members])


def ensemble_forecast(
    members: Sequence[LogProbabilities], labels: Labels, count: int, *, score: str = "brier"
) -> Float[np.ndarray, " examples"]:
    """The loss of every example under an ensemble of `count` members, from m of them: s₁ − c (s₁ − s_m).

    Here s₁ is the mean loss of a member alone, s_m is the loss of the ensemble of the m members, and
    c = (1 − 1/count) / (1 − 1/m). So a pair gives half of what any number of members can give. With all members the
    result is their loss itself. For the Brier score and independent members trained alike, the expectation is exact:
    E s_M = s_∞ + (E s₁ − s_∞)/M. For the log-loss it is nearly so, and for the log-loss with its own temperature the
    forecast is too careful if a temperature helps the ensemble more than it helps a member.

    Args:
        members: Log-probabilities of one member or more. With one, only that member alone can be forecast.
        labels: Classes of the examples.
        count: Number of members of the ensemble, at least as many as are given.
        score: "brier", "nll" or "calibrated_nll", whose temperature is fitted on the same examples.

    Raises:
        BadArgument: The count or the score cannot be used.

    Example:
        >>> import numpy as np
        >>> from gradiometer.exploration.ensembles import ensemble_forecast
        >>> draws = np.random.default_rng(0)
        >>> labels = draws.integers(0, 2, 4000)
        >>> right = draws.beta(4, 2, (8, 4000))  # probability of the label under 8 independent members
        >>> members = np.where(np.eye(2)[labels] == 1, right[..., None], 1 - right[..., None])
        >>> eight = 2 * (1 - right.mean(axis=0)) ** 2  # their Brier score
        >>> forecast = ensemble_forecast(list(np.log(members[:2])), labels, 8)
        >>> print(round(eight.mean(), 2), round(forecast.mean(), 2))
        0.23 0.23

    Source: for a quadratic loss the variance of a mean falls as 1/M, the ambiguity decomposition of Krogh & Vedelsby
    (1994), Neural Network Ensembles, Cross Validation, and Active Learning, eq. 6.
    """
    if score not in LOSSES:
        raise BadArgument(f"`score` must be one of {', '.join(LOSSES)}, got {score!r}.")
    if not members:
        raise BadArgument("`members` must be at least 1, got none.")
    check_whole("count", count, len(members))
    own = _losses(averaged(members), labels, score)
    if len(members) == count:
        return own
    if len(members) == 1:
        raise BadArgument(f"`members` must be at least 2 to forecast {count}, got 1: one has nothing to differ from.")
    alone = member_losses(members, labels, score).mean(axis=0)
    share = (1 - 1 / count) / (1 - 1 / len(members))
    forecast: np.ndarray = alone - share * (alone - own)
    return forecast


def _losses(found: LogProbabilities, labels: Labels, score: str) -> Float[np.ndarray, " examples"]:
    temperature = fitted_temperature(found, labels) if score == "calibrated_nll" else 1.0
    return Predictions(found, labels, temperature).losses[score]
