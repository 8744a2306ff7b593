"""Batches of sequences with time along the first axis."""

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gradiometer import watch
from gradiometer.integrations.watch import Watch

TIMES, EXAMPLES = 12, 6


class Tagger(nn.Module):
    """A recurrent network in doubles, that takes time first or examples first."""

    def __init__(self, batch_first: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.rnn, self.head = nn.LSTM(3, 5, batch_first=batch_first), nn.Linear(5, 2)
        self.double()

    def forward(self, points: Tensor) -> Tensor:
        outputs: Tensor = self.head(self.rnn(points)[0])
        return outputs


def loss(model: nn.Module, batch: Any) -> Tensor:
    return (model(batch[0]) - batch[1]).square().mean()


def trained(out: Path, batch_first: bool, **settings: Any) -> tuple[Tagger, Watch]:
    model = Tagger(batch_first)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    generator = torch.Generator().manual_seed(1)
    with watch(
        model,
        optimizer,
        loss=loss,
        out=out,
        every=1,
        parts=2,
        gauges="noise",
        quiet=True,
        **settings,
    ) as w:
        pickle.loads(pickle.dumps(copy.deepcopy(model)))
        for _ in range(4):
            batch: Any = tuple(
                torch.randn(EXAMPLES, TIMES, size, generator=generator, dtype=torch.float64)
                for size in (3, 2)
            )
            batch = batch if batch_first else tuple(part.transpose(0, 1) for part in batch)
            optimizer.zero_grad()
            value = loss(model, batch)
            value.backward()
            w.step(value, batch)
            optimizer.step()
    assert not model.rnn._forward_pre_hooks
    return model, w


def test_time_along_the_first_axis_is_found_and_batch_axis_reads_it_right(tmp_path: Path) -> None:
    model, wrong = trained(tmp_path, batch_first=False)
    (told,) = wrong.findings().warnings
    assert "rnn (LSTM) runs over 12 times of 6 examples" in told and "give batch_axis=1" in told
    _, right = trained(tmp_path, batch_first=False, batch_axis=1)
    plain, plainly = trained(tmp_path, batch_first=True)
    assert right.findings().warnings == plainly.findings().warnings == ()
    series, expected = right.run.series("noise"), plainly.run.series("noise")
    assert series.batch_size.tolist() == [EXAMPLES] * 4
    for name, values in expected.moments.items():
        assert series.moments[name] == pytest.approx(values, rel=1e-9)
    assert all(map(torch.allclose, model.parameters(), plain.parameters()))
