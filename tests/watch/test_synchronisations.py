"""Measuring does not make an accelerator wait: counts of what would fetch a number from it."""

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from conftest import CASES
from gradiometer import Draw, GradientNoise, Sampling, TrainingStep, watch

FETCHES = {
    torch.ops.aten._local_scalar_dense.default,
    torch.ops.aten.nonzero.default,
    torch.ops.aten.equal.default,
    torch.ops.aten.is_nonzero.default,
}
"""Operations for which the CPU waits for the device of their argument."""


class Fetches(TorchDispatchMode):
    """Counts the operations that make the CPU wait. A copy to the CPU is one more: it is counted by
    hand."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(
        self, operation: Any, types: Any, arguments: Any = (), named: Any = None
    ) -> Any:
        if operation in FETCHES:
            self.seen.append(str(operation))
        return operation(*arguments, **(named or {}))


def test_a_noise_reading_fetches_its_numbers_in_one_copy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    case, copies = CASES["mlp"](), []
    objective = case.objective
    to_cpu = torch.Tensor.cpu
    monkeypatch.setattr(
        torch.Tensor, "cpu", lambda tensor: copies.append(tensor.shape) or to_cpu(tensor)
    )

    def reading(index: int) -> None:
        objective.loss(case.model, case.batch).mean().backward()
        gradient = [parameter.grad for parameter in objective.parameters]
        step = TrainingStep(
            objective,
            case.batch,
            index=index,
            learning_rate=0.1,
            sampling=Sampling(Draw.REPLACEMENT, 100),
            gradient=gradient,
        )
        GradientNoise().measure(step)

    for index in range(4):  # the traits of the loss are found out
        reading(index)
    copies.clear()
    with Fetches() as fetches:
        reading(4)
    assert fetches.seen == [] and len(copies) == 1


@pytest.mark.parametrize("compiled", [False, True], ids=["plain", "compiled"])
def test_an_unmeasured_step_of_a_watched_loop_fetches_nothing(
    tmp_path: Path, compiled: bool
) -> None:
    torch._dynamo.reset()
    torch.manual_seed(0)
    case = CASES["mlp"]()
    model = torch.compile(case.model, backend="aot_eager") if compiled else case.model
    optimizer = torch.optim.SGD(case.model.parameters(), lr=0.05)
    fetches = Fetches()
    with watch(
        model, optimizer, loss=case.loss, out=tmp_path, every=100, page=False, quiet=True
    ) as w:

        def step(counted: AbstractContextManager[object]) -> None:
            optimizer.zero_grad()
            loss = case.loss(model, case.batch).mean()
            with counted:  # without the forward: in this mode torch would not use compiled code
                loss.backward()
                # a loss on an accelerator stays there, see test_accelerator.py
                w.step(1.0, case.batch)
                optimizer.step()

        for _ in range(3):
            step(nullcontext())
        for _ in range(20):
            step(fetches)
    assert fetches.seen == []
