"""How many functions and files of the package one iteration of a watched loop goes through."""

import sys
from pathlib import Path
from types import FrameType

import pytest
import torch
from torch import nn

import gradiometer
from gradiometer import Draw, Sampling, supervised, watch

HOME = str(Path(gradiometer.__file__).parent)


@pytest.mark.parametrize(
    ("step", "files", "calls"),
    [(102, 21, 134), (103, 9, 24)],
    ids=["measured", "before a measured one"],
)
def test_an_iteration_goes_through_few_files(
    tmp_path: Path, step: int, files: int, calls: int
) -> None:
    inputs, labels = torch.randn(512, 20), torch.randint(3, (512,))
    model = nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loss = supervised(nn.CrossEntropyLoss())
    seen: list[str] = []

    def note(frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        is_ours = code.co_filename.startswith(HOME) and not code.co_name.startswith("<")
        if event == "call" and is_ours:
            seen.append(code.co_filename)

    with watch(
        model,
        optimizer,
        loss=loss,
        every=2,
        sampling=Sampling(Draw.REPLACEMENT, 512),
        out=tmp_path,
        page=False,
        quiet=True,
    ) as w:
        for index in range(step + 1):
            chosen = torch.randint(512, (32,))
            batch = inputs[chosen], labels[chosen]
            if index == step:
                # losses are written at the latest after a quarter of a second, readings after one
                w.losses.next = 2**62
                w.losses._late = float("inf")
                w.observers.plan()
                assert w.record.recorder is not None
                w.record.recorder._written = float("inf")
                sys.setprofile(note)
            try:
                optimizer.zero_grad()
                value = loss(model, batch)
                value.backward()
                w.step(value, batch)
                optimizer.step()
            finally:
                sys.setprofile(None)
    assert len(set(seen)) <= files
    assert len(seen) <= calls
