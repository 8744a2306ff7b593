"""The exchange of a measured step, in which the processes of a training join what they read."""

import sys
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from gradiometer.errors import Interrupted
from gradiometer.run.ranks import Ranks

SAID = 3
"""Numbers before the norms: the step that rank 0 measures next, the gauges of this one, and the
size of a part."""

LEAVING = -1.0
"""In place of the next step to measure: this process measures no more."""


class Exchange:
    """Joins the norms of all processes. It also carries what rank 0 decides, which all have to
    know.

    Args:
        ranks: The processes.
        rows: Number of backwards per update on each process.
        numbers: How many numbers are kept of every gradient of the whole model.
        device: The device of the exchanges.
    """

    def __init__(self, ranks: Ranks, rows: int, numbers: int, device: torch.device) -> None:
        self._ranks = ranks
        self._rows = rows
        self._numbers = numbers
        self._device = device
        self.next_due = 0
        """The step that rank 0 measures next."""
        self.bits = 0
        """The gauges that all processes measure together at this step, see `Together`."""

    def joined(
        self,
        proposal: int,
        bits: int,
        sizes: Sequence[int],
        parts: Tensor,
        whole: Float[Tensor, "1 numbers"],
    ) -> tuple[list[int], Float[Tensor, "rows numbers"]]:
        """The sizes of all parts on all processes, and all norms: see `norms_of_all`.

        Args:
            proposal: The step that this process would measure next.
            bits: The gauges that it would run.
            sizes: The examples of each of its backwards.
            parts: The numbers of their gradients.
            whole: Those of `.grad`.

        Raises:
            Interrupted: Another process has stopped measuring.
        """
        said = torch.tensor(
            [[proposal, bits, size] for size in sizes], dtype=parts.dtype, device="cpu"
        )
        said = said.to(parts.device, non_blocking=True)
        rows = torch.cat([torch.cat([said, parts], dim=1), pad(whole, (SAID, 0))])
        everyone = self._ranks.gathered(rows).cpu()  # one copy: an accelerator waits once
        if (everyone[:, 0] == LEAVING).any():
            self.next_due = sys.maxsize
            raise Interrupted("another process of this training has stopped measuring")
        self.next_due = int(everyone[0, 0])
        self.bits = int(everyone[0, 1])
        known = everyone[:, 2]
        return known[known > 0].int().tolist(), everyone[:, SAID:]

    def leave(self) -> None:
        """Take part in one more exchange, without numbers, so that the other processes stop
        measuring too."""
        rows = torch.zeros(
            self._rows + 1, SAID + self._numbers, dtype=torch.float64, device=self._device
        )
        rows[:, 0] = LEAVING
        self.next_due = sys.maxsize
        self._ranks.gathered(rows)
