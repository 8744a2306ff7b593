"""What a watch follows: the loop of a person, or a training of `gradiometer train`."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from gradiometer.integrations.watch.losses import explained, no_loss
from gradiometer.integrations.watch.shield import in_silence, log
from gradiometer.measurement.loss import Loss
from gradiometer.measurement.motion import Origin
from gradiometer.measurement.objective import Objective
from gradiometer.measurement.reading import Spread
from gradiometer.run.budget import Budget, clock_for
from gradiometer.run.ranks import Ranks


@dataclass(frozen=True)
class Subject:
    """The training that is watched.

    Args:
        objective: The bare model and its loss.
        has_loss: True if the objective can be run.
        budget: The account of the run.
        ranks: The processes that call the watch together.
        tell: Takes the text of every warning.
        spread: Returns the spread of the micro-batches that made the gradient of the step at hand,
            None if it has none; None for a training whose spread is read by the watch.
        origin: The earlier parameters that gauges measure from, if they are in the checkpoints of
            the training.
        is_own: True for a training of ours: its loss is the one that is trained, it makes its run
            and ends it, and stops at an error of measuring.
    """

    objective: Objective
    has_loss: bool
    budget: Budget
    ranks: Ranks
    tell: Callable[[str], object]
    spread: Callable[[], Spread | None] | None = None
    origin: Origin | None = None
    is_own: bool = False

    @classmethod
    def of_loop(cls, model: nn.Module, loss: Loss | None, share: float) -> "Subject":
        """The loop of a person.

        Args:
            model: The bare model.
            loss: Its loss, for batches with the examples along the first axis.
            share: Share of the training time that measuring may use.
        """
        objective = Objective(model, no_loss if loss is None else explained(loss))
        ranks = Ranks.here()
        budget = Budget(share, clock_for(objective.parameters[0].device.type))
        return cls(objective, loss is not None, budget, ranks, log if ranks.first else in_silence)
