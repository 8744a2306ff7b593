"""Fingerprints of rows, to see how often training rows come back, and if they are in an
evaluation."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gradiometer.integrations.watch.shield import Hook, Shield
from gradiometer.run.budget import Budget

ROWS = 4096
"""Most rows of each kind whose fingerprints are kept: 32 KiB."""

ENTRIES = 2**14
"""Most numbers of a row that go into its fingerprint: examples that agree in these are the same."""


class SharedRows:
    """Compares the rows of one evaluation with the rows of the training batches that are looked at.

    The model is hooked from the first evaluation to the next one, and never if it is compiled.

    Args:
        model: The model.
        shield: Takes errors.
        budget: The account: what runs the model while it is charged is measuring, and no
            evaluation.
    """

    def __init__(self, model: nn.Module, shield: Shield, budget: Budget) -> None:
        self._model = model
        self._shield = shield
        self._budget = budget
        self._hook: Any = None
        self._calls: list[Tensor] = []
        self._trained: list[Tensor] = []
        self._keys: Tensor | None = None
        self._evaluations = self._count = 0
        self._seen: set[int] = set()

    def evaluated(self) -> None:
        """An evaluation has ended."""
        self._evaluations += 1
        if self._evaluations == 1:
            self._hook = self._model.register_forward_pre_hook(Hook(self._shield, self._called))
        else:
            self.close()

    def close(self) -> None:
        """Remove the hook."""
        if self._hook is not None:
            self._hook.remove()
        self._hook = None

    def shared(self, inputs: Tensor | None, *, compares: bool) -> dict[str, Tensor]:
        """How many rows of the batch were seen before, and how many of those in the evaluation are
        trained on.

        Args:
            inputs: The rows of the training batch that is looked at.
            compares: False to leave out the evaluation, whose comparison takes as long as the rest
                of a look.
        """
        if inputs is None or not inputs.dim() or inputs[:1].numel() < 2:
            return {}
        signs: dict[str, Tensor] = {}
        if self._count < ROWS:
            rows = self._fingerprints(inputs)
            if self._trained:
                signs["repeated_rows"] = self._repeated(rows)
            self._trained.append(rows)
            self._count += len(rows)
        if not compares or self._hook is not None or not self._calls:
            return signs
        trained = torch.cat(self._trained)
        found = [torch.isin(rows.to(trained.device), trained).sum() for rows in self._calls]
        lengths = [torch.full((), float(len(rows)), device=rows.device) for rows in self._calls]
        return signs | {
            "evaluated_rows": torch.stack(lengths),
            "shared_rows": torch.stack(found).float(),
        }

    def _repeated(self, rows: Tensor) -> Tensor:
        """How many of these rows were seen before. On a CPU a set is quicker than a search in all
        of them."""
        if not rows.is_cpu:
            return torch.isin(rows, torch.cat(self._trained)).sum()
        if not self._seen:
            self._seen.update(self._trained[0].tolist())
        numbers = rows.tolist()
        count = len(self._seen.intersection(numbers))
        self._seen.update(numbers)
        return torch.tensor(float(count), device="cpu")

    def _called(self, _: nn.Module, arguments: Sequence[Any]) -> None:
        if torch.is_grad_enabled() or self._budget.is_spending:
            return
        if sum(map(len, self._calls)) >= ROWS:
            return
        inputs = next((one for one in arguments if isinstance(one, Tensor) and one.dim()), None)
        if inputs is not None and inputs.layout is torch.strided:
            self._calls.append(self._fingerprints(inputs))

    def _fingerprints(self, inputs: Tensor) -> Tensor:
        """One number a row: a sum of its bits with fixed factors, in whole numbers, so that no
        order rounds it."""
        rows = inputs.detach().reshape(len(inputs), -1)[:ROWS, :ENTRIES]
        bits = rows.float().contiguous().view(torch.int32) if rows.is_floating_point() else rows
        if self._keys is None or len(self._keys) < bits.shape[1]:
            self._keys = mixed(bits.shape[1], inputs.device)
        return (bits.long() * self._keys[: bits.shape[1]]).sum(dim=1)


def mixed(count: int, device: torch.device) -> Tensor:
    """Whole numbers without a pattern, made on the device, so that nothing is copied to it.

    Source: Knuth, MMIX: the factors of linear congruential generators.
    """
    numbers = torch.arange(1, count + 1, device=device) * 6364136223846793005
    return (numbers ^ (numbers >> 29)) * 2862933555777941757
