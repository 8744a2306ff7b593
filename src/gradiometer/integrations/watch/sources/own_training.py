"""A training of ours, which reads the spread of accumulated gradients itself."""

from collections.abc import Callable, Collection

from gradiometer.integrations.gradients import GradientHooks, GradientsInPlace, Preconditioner
from gradiometer.integrations.watch.shield import Shield
from gradiometer.integrations.watch.sources.exchange import StepOf
from gradiometer.integrations.watch.sources.source import GradientSource, Scale
from gradiometer.measurement.objective import Objective
from gradiometer.measurement.reading import Spread
from gradiometer.run.budget import Budget
from gradiometer.run.ranks import Ranks


class OwnTraining(GradientSource):
    """A training of ours.

    Args:
        spread: Returns the spread of the micro-batches that made the gradient of the step at hand,
            None if it has none; None for a training of one backward per update.
    """

    is_ours = True

    def __init__(self, spread: Callable[[], Spread | None] | None = None) -> None:
        super().__init__(Ranks())
        self._spread = spread

    @property
    def has_spread(self) -> bool:  # type: ignore[override]
        """True if gradients are accumulated."""
        return self._spread is not None

    @property
    def reads_successive(self) -> bool:
        """True if each update is one backward."""
        return self._spread is None

    def connect(
        self,
        objective: Objective,
        budget: Budget,
        shield: Shield,
        preconditioner: Preconditioner | None,
    ) -> None:
        """The gradients are in place, or one backward leaves them there."""
        parameters = objective.parameters
        if self._spread is None:
            self.hooks = GradientHooks(parameters, shield.caught, preconditioner, keeps=False)
        else:
            self.hooks = GradientsInPlace(parameters, shield.caught, preconditioner)

    def spread(
        self,
        proposal: int,
        chosen: Collection[str],
        share: StepOf,
        scale: Scale,
        arrived: Callable[[], None],
    ) -> Spread | None:
        """What the training has read."""
        return None if self._spread is None else self._spread()
