"""Small trainings as jobs, and processes to wait for."""

import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gradiometer.jobs import Job


def trained(data: tuple[Tensor, Tensor], width: int) -> dict[str, Tensor]:
    """A small training, whose bits depend on the start, the order, the threads and the data."""
    inputs, targets = data
    model = nn.Sequential(nn.Linear(20, width), nn.Tanh(), nn.Dropout(0.1), nn.Linear(width, 3))
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    for _ in range(20):
        chosen = torch.randint(len(inputs), (300,))
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs[chosen]), targets[chosen]).backward()
        optimizer.step()
    return model.state_dict()


def trainings() -> tuple[list[Job], tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    data = (
        torch.randn(2000, 20, generator=generator),
        torch.randint(3, (2000,), generator=generator),
    )
    return [Job(f"width {width}", trained, (width,), seed=width) for width in (8, 64, 256)], data


def same(one: Any, other: Any) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.values(), other.values(), strict=True))


def alive(number: int) -> bool:
    try:
        state = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def until(true: Any) -> None:
    last = time.monotonic() + 60
    while not true():
        assert time.monotonic() < last
        time.sleep(0.05)
