"""Every part of a watched loop that is a person's raises at its n-th call: before the first update it is
refused with their line, and later training goes on to the same bits, with a warning that has the line."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from gradiometer import Estimate, Gauge, Issue, UserCodeFailed, supervised, watch
from gradiometer.integrations.watch import Watch

INPUTS = torch.randn(96, 4, generator=torch.Generator().manual_seed(0))
LABELS = (INPUTS[:, 0] > 0).long()
CRITERION = supervised(nn.CrossEntropyLoss(reduction="none"))
STEPS = 16


class Parts:
    """Counts the calls of a part while the loop itself does not call it, and raises from the n-th on."""

    site, left, calls, training = "", 0, 0, False

    @classmethod
    def call(cls, site: str) -> None:
        if site != cls.site or cls.training:
            return
        cls.calls += 1
        if cls.calls > cls.left:
            raise ValueError(f"\x1b[31mno more of {site}")


class Counted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        Parts.call("forward")
        output: Tensor = self.layer(inputs)
        return output


class Rows(Dataset[Any]):
    def __len__(self) -> int:
        return len(INPUTS)

    def __getitem__(self, place: int) -> Any:
        Parts.call("item")
        return INPUTS[place], LABELS[place]


@dataclass(frozen=True)
class Own(Gauge):
    """The mean of a batch, by a gauge of a person."""

    name: ClassVar[str] = "own"
    issue: ClassVar[Issue] = Issue.ESTIMATION
    unit: ClassVar[str] = ""
    needs_loss: ClassVar[bool] = False

    def measure(self, step: Any) -> Mapping[str, float]:
        Parts.call("measure")
        return {"mean": 1.0}

    def estimate(self, series: Any, level: float = 0.9) -> Any:
        Parts.call("estimate")
        return {"mean": Estimate.exact(1.0)}

    def judge(self, estimates: Any, run: Any = None) -> Any:
        Parts.call("judge")
        return None


def loss(model: nn.Module, batch: Any) -> Tensor:
    Parts.call("loss")
    return CRITERION(model, batch)


def tracker(numbers: Mapping[str, float], step: int) -> None:
    Parts.call("tracker")


def groups(batch: Any) -> Tensor:
    Parts.call("groups")
    return torch.arange(len(batch[0])) // 2


def probe(count: int) -> Any:
    Parts.call("probe")
    return INPUTS[:count], LABELS[:count]


def settings_of(kind: str) -> dict[str, Any]:
    """What a kind of watch is given."""
    return {
        "gauges": lambda: {"gauges": ["noise", Own()], "to": [tracker], "every": 2},
        "groups": lambda: {"groups": groups, "every": 2},
        "probe": lambda: {"probe": probe, "every": 2},
        "data set": lambda: {"probe": Rows(), "every": 2},
        "default": lambda: {"budget": 0.5},
        "trials": lambda: {
            "trials": 0.9,
            "sampling": DataLoader(Rows(), batch_size=16, shuffle=True),
            "budget": 0.5,
        },
    }[kind]()


SITES = {
    "gauges": ("loss", "forward", "measure", "estimate", "judge", "tracker"),
    "groups": ("loss", "forward", "groups"),
    "probe": ("loss", "forward", "probe"),
    "data set": ("item",),
    "default": ("loss", "forward"),
    "trials": ("loss", "forward", "item"),
}
EACH = [(kind, site) for kind, sites in SITES.items() for site in sites]


@dataclass
class Ended:
    """How a loop ended."""

    ends: list[Tensor]
    updates: int
    said: list[str]
    refused: str | None = None

    @property
    def raised(self) -> bool:
        return Parts.calls > Parts.left


def trained(folder: Path, kind: str, site: str, number: int) -> Ended:
    """A loop whose part raises from its n-th call on."""
    torch.manual_seed(1)
    Parts.site, Parts.left, Parts.calls = site, number, 0
    model, updates = Counted(), 0
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    quiet: dict[str, Any] = {"out": folder, "page": False, "quiet": True}
    watched: Watch | None = None
    refused = None
    try:
        with watch(model, optimizer, loss=loss, **quiet, **settings_of(kind)) as watched:
            for step in range(STEPS):
                rows = torch.arange(16 * step, 16 * step + 16) % 96
                batch = INPUTS[rows], LABELS[rows]
                optimizer.zero_grad()
                Parts.training = True
                value = CRITERION(model, batch).mean()
                value.backward()
                Parts.training = False
                watched.step(value, batch)
                optimizer.step()
                updates += 1
                if step % 5 == 4:
                    watched.findings()
    except UserCodeFailed as error:
        refused = str(error)
    said = []
    if watched is not None and watched.run is not None:
        said = [*watched.run.warnings, *watched.findings().warnings]
    ends = [copy.deepcopy(each.detach()) for each in model.parameters()]
    return Ended(ends, updates, said, refused)


def check(folder: Path, kind: str, site: str, number: int, whole: Ended) -> bool:
    """True if the part was called so often that it raised."""
    found = trained(folder, kind, site, number)
    label = f"{kind}, {site} {number}: {found.refused} {found.said}"
    if not found.raised:
        return False
    named = [text for text in found.said if "no more" in text]
    if found.refused is not None:
        assert found.updates == 0, label
        named.append(found.refused)
    else:
        assert found.updates == STEPS, label
        assert all(map(torch.equal, found.ends, whole.ends)), label
    assert named, label
    for text in named:
        assert rf"\x1b[31mno more of {site}, at test_parts_raise.py:" in text, label
        assert "\x1b" not in text, label
    return True


@pytest.mark.parametrize(("kind", "site"), EACH)
def test_a_part_that_raises_at_some_call_is_named_and_training_goes_on(
    kind: str, site: str, tmp_path: Path
) -> None:
    whole = trained(tmp_path / "whole", kind, "", 0)
    assert whole.updates == STEPS
    for number in (0, 4):
        check(tmp_path / str(number), kind, site, number, whole)


@pytest.mark.nightly
@pytest.mark.parametrize(("kind", "site"), EACH)
def test_a_part_that_raises_at_any_call_is_named_and_training_goes_on(
    kind: str, site: str, tmp_path: Path
) -> None:
    whole = trained(tmp_path / "whole", kind, "", 0)
    number = 0
    while check(tmp_path / str(number), kind, site, number, whole):
        number += 1
    # trials take place as far as the time allows
    assert number or kind == "trials"
