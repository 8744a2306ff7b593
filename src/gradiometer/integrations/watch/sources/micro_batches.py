"""Each process has the whole model: accumulation, DistributedDataParallel, or both."""

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from gradiometer.integrations.gradients import GradientHooks, Preconditioner
from gradiometer.integrations.watch.shield import Shield
from gradiometer.integrations.watch.sources.exchange import SharedBatches
from gradiometer.integrations.watch.sources.parts_of_update import PartsOfUpdate
from gradiometer.measurement.objective import Objective
from gradiometer.run.budget import Budget


class MicroBatches(PartsOfUpdate):
    """Several backwards per update through whole models."""

    _copies = None

    def keeps_updates(self, called: nn.Module) -> bool:
        """True on one process, and under DDP, where the batches of all processes are kept."""
        return self.keeps_newest or isinstance(called, DistributedDataParallel)

    def shared_batches(self, called: nn.Module) -> SharedBatches | None:
        """Those of the other processes, under DDP."""
        is_shared = self.is_joint and isinstance(called, DistributedDataParallel)
        return SharedBatches(self.ranks) if is_shared else None

    def _read_with(
        self,
        objective: Objective,
        budget: Budget,
        shield: Shield,
        preconditioner: Preconditioner | None,
    ) -> None:
        self.hooks = GradientHooks(objective.parameters, shield.caught, preconditioner)
