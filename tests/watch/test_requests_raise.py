"""What a person asks of a watch calls their model: whenever it raises, the answer names their line,
and the loop keeps its bits."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gradiometer import UserCodeFailed, supervised, watch
from gradiometer.integrations.watch import Watch
from unseen import unseen

INPUTS = torch.randn(96, 4, generator=torch.Generator().manual_seed(0))
LABELS = (INPUTS[:, 0] > 0).long()
LOSS = supervised(nn.CrossEntropyLoss(reduction="none"))
STEPS, ASKED = 12, 8
DATA = (INPUTS, LABELS)


class Raising(nn.Module):
    """A model whose n-th forward raises while a request is answered, in all copies together."""

    left: int | None = None
    calls = unseen(0)

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        Raising.calls.value += 1
        if Raising.left is not None and Raising.calls.value > Raising.left:
            raise ValueError("\x1b[31mno more")
        output: Tensor = self.layer(inputs)
        return output


def fork(watched: Watch) -> object:
    return watched.fork(
        batches=DATA,
        batch_size=16,
        alternatives=["rate 2x", "clip 1"],
        horizon="4 updates",
        replicates=2,
        evaluate=lambda model: {"mine": float(LOSS(model, DATA).mean())},
    )


REQUESTS: dict[str, Callable[[Watch], object]] = {
    "fork": fork,
    "fork at": lambda watched: watched.fork(
        batches=DATA, batch_size=16, alternatives=["rate 2x"], horizon="4 updates", at=4
    ),
    "race": lambda watched: watched.fork(
        batches=DATA, batch_size=16, alternatives=["rate 2x"], budget=0.5, left="400 updates"
    ),
    "ensemble": lambda watched: watched.ensemble(DATA, train=DATA, points=3),
    "certificate": lambda watched: watched.certify(DATA, batches=8, batch_size=8),
    "sharpness": lambda watched: watched.sharpness(DATA, top=1, probes=4),
}


def loop(
    folder: Path, request: Callable[[Watch], object], number: int | None
) -> tuple[list[Tensor], UserCodeFailed | None, int, list[str]]:
    """The end of a loop that asks once: its parameters, what was raised, the number of forwards
    that the request made, and the warnings of the run."""
    torch.manual_seed(1)
    model, found, made = Raising(), None, 0
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    quiet: dict[str, Any] = {"out": folder, "page": False, "quiet": True, "checkpoints": 3}
    with watch(model, optimizer, loss=LOSS, every=2, **quiet) as watched:
        for step in range(STEPS):
            if step in (2, 4, 6):
                watched.snapshot()
            if step == ASKED:
                Raising.left, Raising.calls.value = number, 0
                try:
                    request(watched)
                except UserCodeFailed as error:
                    found = error
                Raising.left, made = None, Raising.calls.value
            rows = torch.arange(16 * step, 16 * step + 16) % 96
            batch = INPUTS[rows], LABELS[rows]
            optimizer.zero_grad()
            value = LOSS(model, batch).mean()
            value.backward()
            watched.step(value, batch)
            optimizer.step()
    assert watched.run is not None
    ends = [copy.deepcopy(each.detach()) for each in model.parameters()]
    return ends, found, made, watched.run.warnings


@pytest.mark.parametrize("request_of", REQUESTS)
@pytest.mark.parametrize("many", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_request_names_the_line_that_raises_at_any_call(
    request_of: str, many: bool, tmp_path: Path
) -> None:
    ask = REQUESTS[request_of]
    whole, error, calls, _ = loop(tmp_path / "whole", ask, None)
    assert error is None and calls
    several = {0, calls // 2, calls - 1}
    if many:
        several = {*range(1, 6), *range(6, calls, max(1, calls // 6))} & {*range(calls)}
    for number in sorted(several):
        ends, error, _, warnings = loop(tmp_path / str(number), ask, number)
        label = f"{request_of}, call {number} of {calls}"
        assert all(torch.equal(*each) for each in zip(ends, whole, strict=True)), label
        said = [str(error)] if error else [text for text in warnings if "no more" in text]
        assert said, label
        for text in said:
            assert r"ValueError: \x1b[31mno more, at test_requests_raise.py:" in text, label
            assert "\x1b" not in text, label
