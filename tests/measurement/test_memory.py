"""The memory that measuring takes in a watched loop, in copies of the parameters above training's
own peak."""

from pathlib import Path

import pytest
import torch
from costs.memory import peak_in_copies
from torch import nn

from gradiometer import supervised, watch

LOSS = supervised(nn.CrossEntropyLoss(reduction="none"))


def peak(
    out: Path, gauges: list[str], *, rules: bool = True, optimizer: type = torch.optim.SGD
) -> float:
    """The peak of three steps that are measured with these gauges, after two that make the
    optimizer's state."""
    torch.manual_seed(0)
    layers = [layer for _ in range(12) for layer in (nn.Linear(256, 256), nn.Tanh())]
    model = nn.Sequential(*layers, *([] if rules else [nn.PReLU()]), nn.Linear(256, 10))
    trains = optimizer(model.parameters(), lr=1e-3)
    batch = torch.randn(4, 256), torch.arange(4)
    with watch(
        model,
        trains,
        loss=LOSS,
        out=out,
        gauges=gauges or None,
        every=1,
        parts=2,
        page=False,
        quiet=True,
    ) as w:

        def step() -> None:
            trains.zero_grad()
            value = LOSS(model, batch).mean()
            value.backward()
            w.step(value, batch)
            trains.step()

        step(), step()
        return peak_in_copies(model, lambda: [step() for _ in range(3)])


@pytest.mark.parametrize(
    "optimizer", [torch.optim.SGD, pytest.param(torch.optim.AdamW, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("rules", [True, False], ids=["examples", "halves"])
def test_a_noise_reading_holds_one_more_copy_of_the_parameters(
    tmp_path: Path, rules: bool, optimizer: type
) -> None:
    own = peak(tmp_path, ["trajectory"], rules=rules, optimizer=optimizer)
    assert peak(tmp_path, ["noise"], rules=rules, optimizer=optimizer) <= own + 1.1


def test_batch_sharpness_holds_three_more_copies_of_the_parameters(tmp_path: Path) -> None:
    own = peak(tmp_path, ["trajectory"])
    # one layer in twelve has two contributions for a while
    assert peak(tmp_path, ["batch_sharpness"]) <= own + 3.2
