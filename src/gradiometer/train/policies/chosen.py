"""The policies that the configuration of a training asks for."""

from gradiometer.errors import BadArgument
from gradiometer.train.policies.cool import Cool
from gradiometer.train.policies.forecasts import Forecasts
from gradiometer.train.policies.policy import Policy
from gradiometer.train.policies.rates import RateForks
from gradiometer.train.training import Training


def policies_of(training: Training) -> tuple[Policy, ...]:
    """The policies of a training, in the order in which they decide.

    Schedule-free training needs no length, and has no rate to fall: its forks score forecasts.

    Raises:
        BadArgument: Several processes train, and forks are asked for.
    """
    configuration = training.configuration
    policies: list[Policy] = [] if training.cooling is None else [Cool(training.cooling)]
    if not training.ranks.alone:
        if configuration.fork_budget:
            raise BadArgument(
                "`fork_budget` is for training in one process: leave it out, or fork the run "
                "afterwards."
            )
    elif configuration.optimizer == "schedulefree":
        policies.append(Forecasts(configuration.fork_budget, training.steps))
    else:
        policies.append(RateForks(configuration, training.steps))
    return tuple(policies)
