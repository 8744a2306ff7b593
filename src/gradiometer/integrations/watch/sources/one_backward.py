"""An update takes one backward, on one process."""

from gradiometer.errors import BadArgument
from gradiometer.integrations.gradients import GradientHooks, Preconditioner
from gradiometer.integrations.watch.shield import Shield
from gradiometer.integrations.watch.sources.source import GradientSource
from gradiometer.measurement.objective import Objective
from gradiometer.run.budget import Budget
from gradiometer.run.ranks import Ranks


class OneBackward(GradientSource):
    """One backward per update on one process: ĝ is in `.grad`.

    A step shows no spread: successive gradients are compared, or a half of the batch is run again.
    """

    has_spread = False

    def __init__(self) -> None:
        super().__init__(Ranks())

    @property
    def reads_successive(self) -> bool:
        """True: each update is one backward."""
        return True

    def check_spread(self, *, has_loss: bool) -> None:
        """Refuse to measure without a loss."""
        if not has_loss:
            raise BadArgument(
                "`loss` is missing, and one backward per step shows no spread: give loss=lambda "
                "model, batch: ..., or accumulate several backwards per update and give their "
                "number as `accumulation`."
            )

    def connect(
        self,
        objective: Objective,
        budget: Budget,
        shield: Shield,
        preconditioner: Preconditioner | None,
    ) -> None:
        """Hooks that keep norms only."""
        self.hooks = GradientHooks(objective.parameters, shield.caught, preconditioner, keeps=False)
