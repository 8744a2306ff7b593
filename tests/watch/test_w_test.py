"""`w.test()`: what may limit a loop is tried on copies of it, and the result leads."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from gradiometer import BadArgument, watch
from gradiometer.integrations.watch.record import Findings
from gradiometer.measurement.finding import Evidence
from gradiometer.problems import load
from gradiometer.verdict import say


def loss(model: nn.Module, batch: Any) -> Tensor:
    return functional.cross_entropy(model(batch[0]), batch[1])


def trained(out: Path, *, tests: bool, rate: float = 5e-4, **given: Any) -> tuple[Any, list[float]]:
    """A loop on digits whose rate is far too low for its batch and length."""
    torch.manual_seed(0)
    digits = load("digits", model="mlp")
    model = digits.model()
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    loader = DataLoader(TensorDataset(*digits.train.data), batch_size=128, shuffle=True)
    settings = {"loss": loss, "sampling": loader, **given}
    losses, found = list[float](), None
    with watch(model, optimizer, out=out, page=False, **settings) as w:
        for _ in range(40):
            for batch in loader:
                optimizer.zero_grad()
                value = loss(model, batch)
                value.backward()
                w.step(value, batch)
                optimizer.step()
                losses.append(value.item())
        if tests:
            found = w.test(share=2.0)
    losses.append(next(model.parameters()).sum().item())
    return found, losses


def test_a_test_confirms_what_limits_a_loop_and_leads_and_training_keeps_its_bits(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    found, losses = trained(tmp_path / "tested", tests=True)
    assert isinstance(found, Findings)
    leading = found[0]
    assert leading.evidence is Evidence.FORK and leading.claim == "rate_low"
    said = say(leading)
    assert " lower: " in said.tried and "The advice held" in said.tried
    printed = capfd.readouterr().err
    assert printed.index("of the training time at most") < printed.index("of cures took")
    assert losses == trained(tmp_path / "plain", tests=False)[1]


@pytest.mark.parametrize(
    ("given", "share", "message"),
    [
        ({"loss": None}, 0.5, "`loss` is missing"),
        ({"sampling": None}, 0.5, "`batches` is missing"),
        ({}, 0.0, "`share` must be above 0"),
        ({}, -1.0, "`share`"),
    ],
)
def test_what_a_test_lacks_is_said(
    tmp_path: Path, given: dict[str, Any], share: float, message: str
) -> None:
    model, batch = nn.Linear(4, 3), (torch.randn(8, 4), torch.arange(8) % 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loader = DataLoader(TensorDataset(*batch), batch_size=8, shuffle=True)
    settings = {"loss": loss, "sampling": loader, **given}
    with watch(model, optimizer, out=tmp_path, page=False, quiet=True, **settings) as w:
        value = loss(model, batch)
        value.backward()
        w.step(value, batch)
        optimizer.step()
        with pytest.raises(BadArgument, match=message):
            w.test(share=share)
