"""Memory that is not enough inside of a reading: training keeps its bits, and one sentence is said."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from gradiometer import Objective, watch
from gradiometer.measurement.gradient_graph import GradientGraph

INPUTS = torch.randn(64, 6, generator=torch.Generator().manual_seed(0))
LABELS = torch.randint(3, (64,), generator=torch.Generator().manual_seed(1))
STEPS = 16


class OutOfMemory(TorchDispatchMode):
    """Raises torch's error at the n-th operation of this region, once."""

    def __init__(self, place: int) -> None:
        super().__init__()
        self._left = place
        self.was_raised = False

    def __torch_dispatch__(
        self, operation: Any, types: Any, arguments: Any = (), named: Any = None
    ) -> Any:
        self._left -= 1
        if self._left == 0:
            self.was_raised = True
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return operation(*arguments, **(named or {}))


def loss_of(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


def bits(w: Any, place: int) -> tuple[list[Tensor], bool]:
    """The parameters and the random state after a training, and if memory was short on the way."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.1), nn.Tanh(), nn.Linear(8, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    watched = nullcontext() if w is None else w(model, optimizer)
    was_raised = False
    with watched as called:
        for step in range(STEPS):
            rows = torch.randint(64, (16,))
            batch = INPUTS[rows], LABELS[rows]
            optimizer.zero_grad()
            loss = loss_of(model, batch)
            loss.backward()
            if called is not None:
                is_short = step >= 4 and not was_raised
                with OutOfMemory(place) if is_short else nullcontext() as short:
                    called.step(loss, batch)
                was_raised = was_raised or (short is not None and short.was_raised)
            optimizer.step()
    if called is not None:
        told = [text for text in called.findings().warnings if "memory" in text]
        assert len(told) == was_raised
    return [*model.parameters(), torch.get_rng_state()], was_raised


@pytest.mark.parametrize(
    "gauge", ["noise", "batch_sharpness", "curvature_along_gradient", "temperature"]
)
def test_a_reading_without_memory_leaves_training_its_bits(tmp_path: Path, gauge: str) -> None:
    plain, _ = bits(None, 0)

    def watched(model: nn.Module, optimizer: torch.optim.Optimizer) -> Any:
        return watch(
            model,
            optimizer,
            loss=loss_of,
            gauges=gauge,
            every=2,
            out=tmp_path,
            quiet=True,
            page=False,
        )

    planted = 0
    for place in (2, 3, 5, 8, 13, 21, 34, 55):
        ended, was_raised = bits(watched, place)
        planted += was_raised
        assert all(map(torch.equal, plain, ended))
    assert planted >= 4


def test_missing_memory_is_not_taken_for_an_operation_that_cannot_be_batched(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    graph = GradientGraph(Objective(nn.Linear(6, 3), loss_of), (INPUTS, LABELS))
    vectors = torch.ones(2, graph.gradient.numel())
    whole, batched = torch.autograd.grad, graph.products(vectors)

    def short(*given: Any, is_grads_batched: bool = False, **named: Any) -> Any:
        if is_grads_batched:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return whole(*given, is_grads_batched=is_grads_batched, **named)

    with monkeypatch.context() as patch:
        patch.setattr(torch.autograd, "grad", short)
        with pytest.raises(torch.OutOfMemoryError):
            graph.products(vectors)
    assert torch.equal(graph.products(vectors), batched)  # in one backward, as before
