"""The moments of inputs, and which of them are to be scaled."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gradiometer import diagnose, watch
from gradiometer.integrations.watch.observers.triage.batches import input_moments, parts_of
from gradiometer.verdict.claims import Claim
from made_up_signs import claims, constant, healthy
from small_classifier import sgd
from triage_cases import CASES


@pytest.mark.parametrize("size", [1.0, 100.0])
def test_targets_as_large_as_the_inputs_are_to_be_scaled_with_them(
    tmp_path: Path, size: float
) -> None:
    """Scaled inputs alone made the loss of a forecast ten times as high."""
    model = nn.Linear(4, 1)
    optimizer = torch.optim.Adam(model.parameters())
    with watch(model, optimizer, out=tmp_path, quiet=True, page=False) as w:
        for _ in range(60):
            inputs = 100 * torch.randn(16, 4)
            optimizer.zero_grad()
            targets = inputs[:, :1] / 100 * size
            loss = nn.functional.mse_loss(model(inputs), targets)
            loss.backward()
            w.step(loss)
            optimizer.step()
    headline = diagnose(w.run).triage.claims[0]
    assert headline.claim == "unscaled"
    assert ("targets = " in headline.cure[0]) == (size > 5)


@pytest.mark.parametrize("size", [1e-3, 1.0, 1e4])
def test_the_moments_of_inputs_are_those_of_double_precision(size: float) -> None:
    inputs = 3.0 + size * torch.randn(64, 5, 7, generator=torch.Generator().manual_seed(0))
    found = input_moments(inputs)
    assert float(found["input_std"]) == pytest.approx(
        float(inputs.double().std(correction=0)), 1e-4
    )
    assert float(found["input_mean"]) == pytest.approx(float(inputs.double().mean()), rel=1e-5)
    assert float(found["inputs_not_finite"]) == 0
    # rounding must not make a spread of what does not vary: its mean would be far from zero by it
    assert float(input_moments(torch.full((64, 3), -0.4242))["input_std"]) == 0
    inputs[3, 0, 0] = float("nan")
    assert float(input_moments(inputs)["inputs_not_finite"]) == 1


def test_inputs_that_are_not_scaled_explain_a_batch_that_seems_small() -> None:
    small = CASES[Claim.BATCH_SMALL][0][0]
    assert Claim.BATCH_SMALL in claims(healthy(**small))
    unscaled = healthy(**{**small, "input_std": constant(9.0), "input_mean": constant(0.0)})
    assert claims(unscaled) == {Claim.UNSCALED}


class Table(nn.Module):
    """A table whose last column holds categories, as numbers: they are looked up."""

    def __init__(self) -> None:
        super().__init__()
        self.places, self.rest = nn.Embedding(50, 3), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        found = self.places(x[:, 3].long())
        return self.rest(torch.cat([x[:, :3], found], dim=1))  # type: ignore[no-any-return]


@pytest.mark.parametrize(("size", "claimed"), [(1.0, False), (20.0, True)])
def test_categories_that_are_looked_up_are_no_inputs_to_scale(
    tmp_path: Path, size: float, claimed: bool
) -> None:
    """Of a table of clicks the codes of categories made a spread of 7: a click model that was well
    was told to scale them."""
    generator = torch.Generator().manual_seed(0)
    numbers = size * torch.randn(800, 3, generator=generator)
    codes = torch.randint(50, (800, 1), generator=generator).float()
    rows, labels = torch.cat([numbers, codes], dim=1), torch.arange(800) % 4
    model = Table()
    optimizer = sgd(model)
    with watch(model, optimizer, out=tmp_path, page=False, quiet=True) as w:
        for step in range(60):
            batch = rows[16 * step % 784 :][:16], labels[16 * step % 784 :][:16]
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(batch[0]), batch[1])
            loss.backward()
            w.step(loss, batch)
            optimizer.step()
    assert w.run is not None
    assert ("unscaled" in diagnose(w.run).to_dict()["claims"]) == claimed


TOKENS, NEXT, STATE = torch.zeros(8, 5, dtype=torch.long), torch.ones(8, 5), torch.zeros(1, 8, 3)


@pytest.mark.parametrize(
    "batch",
    [
        (TOKENS, NEXT),
        (TOKENS, NEXT, STATE, STATE),
        (TOKENS, NEXT, (STATE, STATE)),
        ((TOKENS, torch.ones(8, 5, dtype=torch.bool)), NEXT),
        ({"tokens": TOKENS}, NEXT),
        {"batch": {"labels": NEXT, "tokens": TOKENS}},
        ({"labels": NEXT, "tokens": TOKENS}, TOKENS),
        [TOKENS, {"target": NEXT}],
    ],
)
def test_labels_are_found_in_any_nesting_and_no_state_is_taken_for_them(batch: Any) -> None:
    inputs, labels = parts_of(batch)
    assert labels is NEXT and inputs is not None and inputs is not NEXT


def test_a_batch_without_labels_has_none() -> None:
    assert parts_of(TOKENS) == (TOKENS, None)
    assert parts_of({"tokens": TOKENS, "mask": NEXT})[1] is None
    assert parts_of("text") == (None, None)
