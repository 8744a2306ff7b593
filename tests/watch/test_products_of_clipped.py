"""The noise of a loop that clips its gradients between `step` and the update."""

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from gradiometer import diagnose, watch
from gradiometer.measurement.estimate import Estimate

OPTIMIZERS = {
    "SGD": lambda weights: torch.optim.SGD(weights, lr=1e-4, momentum=0.5),
    "AdamW": lambda weights: torch.optim.AdamW(weights, lr=1e-5, betas=(0.5, 0.999)),
}
QUIET = {"page": False, "quiet": True}
TRUTH = 32.0
"""tr Σ; the signal is 1."""


def noise_scale(folder: Path, name: str, clip: float, seed: int, steps: int) -> Estimate:
    """What is read of a loop that clips: the optimizer remembers gradients that are up to a hundred
    times shorter than those read."""
    torch.manual_seed(seed)
    model = nn.Linear(8, 1, bias=False)
    optimizer = OPTIMIZERS[name](model.parameters())
    with watch(model, optimizer, out=folder, every=1, gauges="noise", **QUIET) as w:
        for _ in range(steps):
            inputs = 2 * torch.randn(16, 8)
            inputs[:, 0] += 1
            optimizer.zero_grad()
            loss = model(inputs).mean()
            loss.backward()
            w.step(loss, inputs)
            nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
    return diagnose(w.run).estimates["noise_scale"]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_clipping_before_the_update_leaves_the_noise_as_it_is(tmp_path: Path, name: str) -> None:
    plain, clipped = (noise_scale(tmp_path, name, clip, 0, 600) for clip in (math.inf, 0.1))
    assert clipped.low < TRUTH < clipped.high
    assert plain.value / 1.5 < clipped.value < 1.5 * plain.value


@pytest.mark.nightly
@pytest.mark.parametrize("clip", [0.1, 1.2])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_nine_in_ten_intervals_of_clipped_loops_hold_the_truth(
    tmp_path: Path, name: str, clip: float
) -> None:
    found = [noise_scale(tmp_path, name, clip, seed, 400) for seed in range(60)]
    # 60 draws at 0.9 are below 0.8 once in a hundred
    assert sum(each.low < TRUTH < each.high for each in found) >= 0.8 * len(found)
    assert sum(math.isfinite(each.high) for each in found) >= 0.8 * len(found)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_a_scaler_that_was_not_given_leaves_the_readings_as_they_are(
    tmp_path: Path, momentum: float
) -> None:
    """The gradients that are read have its factor, and the losses and the buffer have not."""

    def readings(factor: float) -> Mapping[str, np.ndarray]:
        torch.manual_seed(0)
        model = nn.Linear(8, 1, bias=False)
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=momentum)
        scaler = torch.amp.GradScaler("cpu", init_scale=factor)
        with watch(model, optimizer, out=tmp_path, every=1, gauges="noise", **QUIET) as w:
            for _ in range(60):
                inputs = torch.randn(16, 8)
                optimizer.zero_grad()
                loss = model(inputs).mean()
                scaler.scale(loss).backward()
                w.step(loss, inputs)
                scaler.step(optimizer)
                scaler.update()
        return w.run.series("noise").moments

    plain, scaled = readings(1.0), readings(2.0**12)
    assert plain.keys() == scaled.keys()
    for name in plain:
        np.testing.assert_allclose(scaled[name], plain[name], rtol=1e-4, atol=1e-6, err_msg=name)
