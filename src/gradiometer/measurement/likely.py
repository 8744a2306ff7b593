"""A gradient of which the CPU knows only later that it is ĝ, so that it need not wait for an
accelerator now."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor


class LikelyGradient(ABC):
    """ĝ of a step. A spread is measured with the likely one, and again if that turns out to be
    wrong."""

    @abstractmethod
    def __call__(self) -> Sequence[Tensor] | None:
        """ĝ, one tensor per trainable parameter; None if it is not available. May wait for an
        accelerator."""

    @abstractmethod
    def likely(self) -> Sequence[Tensor] | None:
        """What ĝ most likely is; None if it has to be asked for. Nothing waits."""

    @abstractmethod
    def was_right(self) -> bool:
        """True if `likely` returned ĝ, or was not called. Waits only if the CPU has not waited
        since."""
