"""The forks that a training makes on its way: of its rate, or of a forecast if it has no given length."""

from gradiometer.train.forking.if_cooled import CooledForecasts
from gradiometer.train.forking.rate_fork import RateForks
from gradiometer.train.training import Training


def forks_along(training: Training) -> RateForks | CooledForecasts:
    """What decides on forks of a training. Schedule-free training needs no length, and has no rate to fall.

    Raises:
        BadArgument: Several processes train, and forks are asked for.
    """
    configuration = training.configuration
    rates = RateForks(configuration, training.steps, training.ranks)
    if configuration.optimizer != "schedulefree" or not training.ranks.alone:
        return rates
    return CooledForecasts(configuration.fork_budget, training.steps)
