"""What a watch announces is measured: in five loops under SGD, at the default budget."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from gradiometer import Configuration, Run, watch
from gradiometer.problems import load
from gradiometer.train import train

DIGITS = load("digits", model="mlp")


def wide() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10))


def of_a_person(
    out: Path, model: Callable[[], nn.Module], rate: float, momentum: float = 0.0
) -> Run | None:
    torch.manual_seed(0)
    network = model()
    optimizer = torch.optim.SGD(network.parameters(), lr=rate, momentum=momentum)
    with watch(network, optimizer, loss=DIGITS.loss, out=out, page=False) as w:
        for _ in range(7):
            for chosen in torch.randperm(len(DIGITS.train)).split(32):
                batch = DIGITS.train.batch(chosen)
                optimizer.zero_grad()
                loss = DIGITS.loss(network, batch).mean()
                loss.backward()
                w.step(loss, batch)
                optimizer.step()
    return w.run


def ours(out: Path, rate: float, momentum: float) -> Run:
    settings = {"learning_rate": rate, "momentum": momentum}
    without = {"check_edge": False, "check_endpoint": False}
    return train(DIGITS, Configuration(model="mlp", epochs=7, **settings, **without), out)


LOOPS: dict[str, Callable[[Path], Run | None]] = {
    "watch, SGD": lambda out: of_a_person(out, DIGITS.model, 0.1),
    "watch, momentum": lambda out: of_a_person(out, DIGITS.model, 0.02, 0.9),
    "watch, a wide network": lambda out: of_a_person(out, wide, 0.05),
    "train, SGD": lambda out: ours(out, 0.1, 0.0),
    "train, momentum": lambda out: ours(out, 0.02, 0.9),
}


@pytest.mark.slow
@pytest.mark.parametrize("loop", LOOPS)
def test_what_is_announced_is_measured(
    loop: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = LOOPS[loop](tmp_path)
    assert run is not None
    announced = set(run.gauges)
    if loop.startswith("watch"):
        said = capsys.readouterr().err.split("measures ")[1].split(" in 2 %")[0]
        announced = set(said.split(", "))
    assert {"noise", "batch_sharpness"} <= announced
    for gauge in announced:
        series = run.series(gauge)
        assert series is not None and len(series) >= 5, gauge
