"""`w.test()`: what may limit a loop is tried on copies of it, and the result leads."""

import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from gradiometer import BadArgument, Run, Unsupported, diagnose, watch
from gradiometer.integrations.watch.record import Findings
from gradiometer.measurement.finding import Evidence
from gradiometer.problems import load
from gradiometer.verdict import say


def loss(model: nn.Module, batch: Any) -> Tensor:
    return functional.cross_entropy(model(batch[0]), batch[1])


def trained(out: Path, *, tests: str, rate: float = 5e-4, **given: Any) -> tuple[Any, list[float]]:
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
        if tests == "inside":
            found = w.test(share=2.0)
    if tests == "after":
        found = w.test(share=2.0)
    losses.append(next(model.parameters()).sum().item())
    return found, losses


@pytest.mark.parametrize("place", ["inside", "after"])
def test_a_test_confirms_what_limits_a_loop_and_leads_and_training_keeps_its_bits(
    tmp_path: Path, place: str, capfd: pytest.CaptureFixture[str]
) -> None:
    found, losses = trained(tmp_path / "tested", tests=place)
    assert isinstance(found, Findings)
    leading = found[0]
    assert leading.evidence is Evidence.FORK and leading.claim == "rate_low"
    said = say(leading)
    assert "Provisional" not in str(found)
    (run,) = map(Run.open, (tmp_path / "tested").glob("loop-*"))
    assert diagnose(run).headline == leading  # what the page and the command line say
    assert " lower: " in said.tried and "The test confirms the advice" in said.tried
    printed = capfd.readouterr().err
    assert printed.index("of the training time at most") < printed.index("of cures took")
    assert losses == trained(tmp_path / "plain", tests="")[1]


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


def small_loop(out: Path, **settings: Any) -> tuple[Any, nn.Module, str]:
    """A watched loop of 40 updates on one batch, its model, and what it printed inside the block."""
    torch.manual_seed(0)
    batch = torch.randn(8, 4), torch.arange(8) % 3
    model = nn.Linear(4, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with watch(model, optimizer, out=out, page=False, quiet=True, **settings) as w:
        for _ in range(40):
            optimizer.zero_grad()
            value = loss(model, batch)
            value.backward()
            w.step(value, batch)
            optimizer.step()
        inside = str(w.findings())
    return w, model, inside


def test_findings_of_a_training_that_goes_on_say_what_they_wait_for(tmp_path: Path) -> None:
    w, _, inside = small_loop(tmp_path)
    assert inside.startswith("▸ Provisional: the training is at step 40, and its length is not")
    assert "Provisional" not in str(w.findings())
    assert small_loop(tmp_path, steps=50)[2].startswith(
        "▸ Provisional: the training is at step 40 of 50."
    )
    assert "Provisional" not in small_loop(tmp_path, steps=40)[2]


def test_a_test_after_the_block_needs_the_model_as_the_training_left_it(tmp_path: Path) -> None:
    batch = torch.randn(8, 4), torch.arange(8) % 3
    loader = DataLoader(TensorDataset(*batch), batch_size=8, shuffle=True)
    w, model, _ = small_loop(tmp_path, loss=loss, sampling=loader)
    w.test()
    w.test()  # a test changes nothing
    model.load_state_dict({name: one + 1 for name, one in model.state_dict().items()})
    with pytest.raises(Unsupported, match="`model` was changed after the `with` block"):
        w.test()


def test_the_time_after_the_block_is_no_time_of_training(tmp_path: Path) -> None:
    batch = torch.randn(8, 4), torch.arange(8) % 3
    loader = DataLoader(TensorDataset(*batch), batch_size=8, shuffle=True)
    w, _, _ = small_loop(tmp_path, loss=loss, sampling=loader)
    before = w.budget.training
    time.sleep(0.05)
    w.test()
    time.sleep(0.05)
    assert w.budget.training <= before + 0.02


@pytest.mark.parametrize(
    ("given", "ends"),
    [
        ((), "It needs `sampling=loader` in `watch`."),  # the loss is seen
        (("loss",), "It needs `sampling=loader` in `watch`."),
        (("loss", "sampling"), "after the training; it takes up to half of its time."),
    ],
)
def test_how_to_test_says_what_is_missing_and_nothing_else(
    tmp_path: Path, given: tuple[str, ...], ends: str
) -> None:
    missing = {"loss": None, "sampling": None}
    for name in given:
        del missing[name]
    trained(tmp_path, tests="", **missing)
    (run,) = map(Run.open, tmp_path.glob("loop-*"))
    headline = diagnose(run).headline
    assert headline is not None and headline.claim == "rate_low"
    assert say(headline).tried.startswith("Not tested. To test it on copies, add `print(w.test())`")
    assert ends in say(headline).tried
