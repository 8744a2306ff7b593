"""The noise of a loop that clips its gradients between `step` and the update."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from gradiometer import diagnose, watch


@pytest.mark.parametrize(
    "made",
    [
        lambda weights: torch.optim.SGD(weights, lr=1e-4, momentum=0.5),
        lambda weights: torch.optim.AdamW(weights, lr=1e-5, betas=(0.5, 0.999)),
    ],
    ids=["SGD", "AdamW"],
)
def test_clipping_before_the_update_leaves_the_noise_as_it_is(
    tmp_path: Path, made: Callable[..., torch.optim.Optimizer]
) -> None:
    """The optimizer remembers gradients that are up to a hundred times shorter than those read. The
    signal is 1, and tr Σ is 32."""
    scales = []
    for clip in (math.inf, 0.1):
        torch.manual_seed(0)
        model = nn.Linear(8, 1, bias=False)
        optimizer = made(model.parameters())
        asked = {"every": 1, "gauges": "noise", "page": False, "quiet": True}
        with watch(model, optimizer, out=tmp_path, **asked) as w:
            for _ in range(600):
                inputs = 2 * torch.randn(16, 8)
                inputs[:, 0] += 1
                optimizer.zero_grad()
                loss = model(inputs).mean()
                loss.backward()
                w.step(loss, inputs)
                nn.utils.clip_grad_norm_(model.parameters(), clip)
                optimizer.step()
        scales.append(diagnose(w.run).estimates["noise_scale"])
    plain, clipped = scales
    assert clipped.low < 32 < clipped.high
    assert plain.value / 1.5 < clipped.value < 1.5 * plain.value
