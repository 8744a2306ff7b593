"""Measuring on a probe: batches of independent examples instead of those of training."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from gradiometer import BadArgument, Run, Sampling, supervised, watch
from gradiometer.integrations.watch import Watch
from gradiometer.measurement import Draw
from gradiometer.problems import Examples
from gradiometer.problems.images.digits import load
from gradiometer.report.page.page import gradient_meant
from gradiometer.run import Configuration
from gradiometer.run.folder import RunFolder
from gradiometer.train import train

LOSS = supervised(nn.CrossEntropyLoss(reduction="none"))
ALL = "noise,batch_sharpness,step_drift,curvature_along_gradient"
N = 24
INPUTS = torch.randn(N, 8, generator=torch.Generator().manual_seed(0))
LABELS = torch.randint(5, (N,), generator=torch.Generator().manual_seed(1))


def net(coupled: bool = False) -> nn.Module:
    torch.manual_seed(0)
    more = (nn.BatchNorm1d(16), nn.Dropout(0.3)) if coupled else ()
    return nn.Sequential(nn.Linear(8, 16), *more, nn.Tanh(), nn.Linear(16, 5))


def trained(
    out: Path,
    coupled: bool = False,
    *,
    steps: int = 12,
    lr: float = 0.1,
    watched: dict[str, Any] | None = None,
) -> tuple[list[Tensor], Tensor, Watch | None]:
    """The tensors of the model after shuffled epochs, the random state, and the watch."""
    model = net(coupled)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    torch.manual_seed(7)

    def through(w: Watch | None) -> None:
        for step, chosen in enumerate(epochs()):
            if step == steps:
                return
            batch = INPUTS[chosen], LABELS[chosen]
            optimizer.zero_grad()
            value = LOSS(model, batch).mean()
            value.backward()
            if w is not None:
                w.step(value, batch)
            optimizer.step()

    if watched is None:
        through(None)
        return list(model.state_dict().values()), torch.get_rng_state(), None
    settings = {"sampling": Sampling(Draw.RESHUFFLED, N), "every": 1, "gauges": ALL} | watched
    with watch(model, optimizer, loss=LOSS, out=out, **settings) as w:
        through(w)
    return list(model.state_dict().values()), torch.get_rng_state(), w


def epochs() -> Iterator[Tensor]:
    while True:
        yield from torch.randperm(N).split(8)


SOURCES = {
    "tensors": (INPUTS, LABELS),
    "data set": TensorDataset(INPUTS, LABELS),
    "examples": Examples((INPUTS, LABELS)),
    "loader": DataLoader(TensorDataset(INPUTS, LABELS), batch_size=3, shuffle=True),
}


@pytest.mark.parametrize("coupled", [False, True], ids=["plain", "batch norm, dropout"])
def test_a_probe_leaves_training_as_it_was(tmp_path: Path, coupled: bool) -> None:
    plain, random, _ = trained(tmp_path, coupled, steps=17)
    for source in ("tensors", "loader"):
        probed, other, w = trained(tmp_path, coupled, steps=17, watched={"probe": SOURCES[source]})
        assert all(torch.equal(one, two) for one, two in zip(plain, probed, strict=True))
        assert torch.equal(random, other)
        assert w is not None and w.run is not None and w.run.warnings == []
        assert set(w.run.gauges) == set(ALL.split(","))


def test_a_probe_is_weighted_by_the_preconditioner_of_the_optimizer(tmp_path: Path) -> None:
    model = net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    with watch(model, optimizer, loss=LOSS, out=tmp_path, every=1, probe=(INPUTS, LABELS)) as w:
        for chosen in torch.arange(N).split(8):
            optimizer.zero_grad()
            value = LOSS(model, (INPUTS[chosen], LABELS[chosen])).mean()
            value.backward()
            w.step(value, (INPUTS[chosen], LABELS[chosen]))
            optimizer.step()
    assert w.run is not None and "preconditioned_noise" in w.run.gauges and w.run.warnings == []


def test_every_kind_of_source_gives_the_same_readings(tmp_path: Path) -> None:
    found = []
    for source in SOURCES.values():
        _, _, w = trained(tmp_path, watched={"probe": source, "gauges": "noise"})
        assert w is not None and w.run is not None
        series = w.run.series("noise")
        assert series is not None
        found.append(series.moments["gradient_variance"])
    assert all(np.array_equal(found[0], other) for other in found[1:])


def test_readings_are_of_independent_examples_whatever_training_does(tmp_path: Path) -> None:
    """Without moving, the mean of many readings is that of all examples, with no correction for
    shuffled epochs."""
    _, _, w = trained(
        tmp_path, steps=120, lr=1e-12, watched={"probe": (INPUTS, LABELS), "gauges": "noise"}
    )
    assert w is not None and w.run is not None
    series = w.run.series("noise")
    assert series is not None and series.sampling == Sampling(Draw.REPLACEMENT, N)
    assert w.run.sampling == Sampling(Draw.RESHUFFLED, N)
    assert set(series.batch_size) == {8}
    model = net()
    each = torch.stack(
        [
            torch.cat(
                [
                    g.flatten()
                    for g in torch.autograd.grad(LOSS(model, one).mean(), list(model.parameters()))
                ]
            )
            for one in ((INPUTS[[place]], LABELS[[place]]) for place in range(N))
        ]
    ).double()
    truth = {
        "gradient_variance": float(each.var(dim=0, correction=0).sum()),
        "gradient_norm_squared": float(each.mean(0).square().sum()),
    }
    for name, value in truth.items():
        samples = series.moments[name].sum(axis=1)
        assert abs(samples.mean() - value) < 3 * samples.std() / 120**0.5, name
    assert len(set(samples)) == 120


@pytest.mark.slow
@pytest.mark.parametrize("probe", [False, True])
def test_a_probe_removes_the_bias_of_the_batches_that_are_still_to_come(
    tmp_path: Path, probe: bool
) -> None:
    """A step halves the residuals of its batch, so a coming batch has larger ones than the batches
    of this epoch."""
    generator = torch.Generator().manual_seed(0)
    inputs = nn.functional.normalize(torch.randn(64, 400, generator=generator, dtype=torch.float64))
    targets = torch.randn(64, 1, generator=generator, dtype=torch.float64)
    torch.manual_seed(3)
    model = nn.Linear(400, 1, bias=False).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=4.0)
    exact, half = [], supervised(lambda output, target: (output - target).square().flatten() / 2)
    data = {"probe": (inputs, targets)} if probe else {}
    sampling = Sampling(Draw.RESHUFFLED, 64)
    with watch(
        model,
        optimizer,
        loss=half,
        out=tmp_path,
        sampling=sampling,
        gauges="noise",
        every=1,
        parts=2,
        **data,
    ) as w:
        for chosen in (part for _ in range(10) for part in torch.randperm(64).split(8)):
            each = (model(inputs) - targets).detach() * inputs
            exact.append(float(each.var(dim=0, correction=0).sum()))
            optimizer.zero_grad()
            loss = half(model, (inputs[chosen], targets[chosen])).mean()
            loss.backward()
            w.step(loss, (inputs[chosen], targets[chosen]))
            optimizer.step()
    series = w.run and w.run.series("noise")
    assert series is not None
    finite = series.sampling.one_over_examples("train")
    ratio = (1 - finite) * series.moments["gradient_variance"].sum(axis=1) / exact
    error = ratio.std(ddof=1) / len(ratio) ** 0.5
    assert error < 0.1
    assert (abs(ratio.mean() - 1) < 3 * error) if probe else (ratio.mean() > 1 + 4 * error)


def test_new_examples_come_from_a_function(tmp_path: Path) -> None:
    asked = []

    def fresh(count: int) -> tuple[Tensor, Tensor]:
        asked.append(count)
        return torch.randn(count, 8), torch.randint(5, (count,))

    plain, random, _ = trained(tmp_path)
    probed, other, w = trained(tmp_path, watched={"probe": fresh})
    assert all(
        torch.equal(one, two) for one, two in zip(plain, probed, strict=True)
    ) and torch.equal(random, other)
    assert set(asked) == {8} and len(asked) >= 12
    assert w is not None and w.run is not None and w.run.measured_sampling == Sampling(Draw.FRESH)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"probe": 3}, "`probe` is of type int, which cannot be indexed"),
        (
            {"probe": lambda count: (INPUTS[:2], LABELS[:2])},
            "`probe` returned 2 examples, and 8 were asked for",
        ),
        (
            {"gauges": "temperature"},
            "`gauges` names temperature, which needs training's own batches",
        ),
        ({"accumulation": 2}, "`probe` is for one backward per update on one process"),
    ],
)
def test_a_probe_that_cannot_be_measured_is_refused(
    tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(BadArgument, match=message):
        trained(tmp_path, watched={"probe": (INPUTS, LABELS)} | settings)


def test_a_probe_needs_the_loss(tmp_path: Path) -> None:
    model = net()
    with pytest.raises(BadArgument, match="`probe` is given without `loss`"):
        watch(
            model, torch.optim.SGD(model.parameters(), lr=0.1), probe=(INPUTS, LABELS), out=tmp_path
        )


def configuration(**settings: Any) -> Configuration:
    given = {"epochs": 1, "every": 1, "parts": 2, "check_edge": False, "check_endpoint": False}
    return Configuration(**(given | {"gauges": ALL} | settings))


def test_training_with_a_probe_is_training_without(tmp_path: Path) -> None:
    plain, probed = (
        train(load("mlp"), configuration(probe=probe), tmp_path) for probe in (False, True)
    )
    assert np.array_equal(plain.losses[1], probed.losses[1])
    one, two = (run.series("noise") for run in (plain, probed))
    assert one is not None and two is not None and len(one) == len(two)
    assert one.sampling.draw is Draw.RESHUFFLED and two.sampling == Sampling(Draw.REPLACEMENT, 1437)
    assert not np.isin(one.moments["gradient_variance"], two.moments["gradient_variance"]).any()
    assert "independent draws with replacement from 1,437 examples" in gradient_meant(probed)
    assert "has not been trained on" in gradient_meant(plain)


@pytest.mark.parametrize("settings", [{"gauges": "temperature"}, {"accumulation": 2}])
def test_training_refuses_a_probe_beside_what_needs_its_own_batches(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    with pytest.raises(BadArgument, match="`probe` is for measuring apart from training"):
        train(load("mlp"), configuration(probe=True, **settings), tmp_path)


def test_a_damaged_probe_is_named(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path, "example", {"probe": {"draw": "twice"}})
    run = Run(folder.path)
    assert run.measured_sampling == run.sampling
    (warning,) = run.warnings
    assert "run.toml" in warning and "`probe` is damaged: left out" in warning
