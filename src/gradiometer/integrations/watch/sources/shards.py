"""The model is sharded over the processes (FSDP2)."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from gradiometer.errors import BadArgument
from gradiometer.integrations.fsdp import ShardHooks
from gradiometer.integrations.gradients import Preconditioner
from gradiometer.integrations.watch.shield import Shield
from gradiometer.integrations.watch.sources.parts_of_update import PartsOfUpdate
from gradiometer.measurement.objective import Objective
from gradiometer.run.budget import Budget


class Shards(PartsOfUpdate):
    """Each process has a piece of every parameter, and its own examples."""

    runs_model = False

    @property
    def _copies(self) -> Float[Tensor, " parameters"] | None:
        return self._pieces.copies

    def check_spread(self, *, has_loss: bool) -> None:
        """Refuse one backward on one process."""
        if self.backwards == 1 and not self.is_joint:
            raise BadArgument(
                "`model` is sharded (FSDP) over one process, where half of a batch cannot be run: "
                "start several processes, or accumulate several backwards per update and give "
                "their number as `accumulation`."
            )

    def changed(self, objective: Objective, parameters: Sequence[nn.Parameter]) -> bool:
        """False: within a forward the model has whole parameters in the place of the pieces."""
        return False

    def _read_with(
        self,
        objective: Objective,
        budget: Budget,
        shield: Shield,
        preconditioner: Preconditioner | None,
    ) -> None:
        self._pieces = ShardHooks(objective, budget, shield, preconditioner)
        self.hooks = self._pieces
