"""A run that was measured by the laboratory opens where only gradiometer is installed."""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch

from gradiometer import Run, watch

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
LAB = "gradiometer_lab"


def gauges_of_the_lab() -> list[str]:
    points = PROJECT["entry-points"]["gradiometer.gauges"]
    return [name for name, path in points.items() if path.startswith(LAB)]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run with readings of all gauges of the laboratory."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)

    def loss_of(model: torch.nn.Module, batch: list[torch.Tensor]) -> torch.Tensor:
        logits = model(batch[0])
        return torch.nn.functional.cross_entropy(logits, batch[1], reduction="none")

    out = tmp_path_factory.mktemp("runs")
    gauges = ["noise", *gauges_of_the_lab()]
    with watch(model, optimizer, loss=loss_of, gauges=gauges, every=1, out=out, page=False) as w:
        for _ in range(60):
            batch = [torch.randn(16, 6), torch.randint(3, (16,))]
            optimizer.zero_grad()
            loss = loss_of(model, batch).mean()
            loss.backward()
            w.step(loss, batch)
            optimizer.step()
    return w.run


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that hides the laboratory: the metadata of gradiometer without its entry points, and
    a module of its name that cannot be imported."""
    folder = tmp_path_factory.mktemp("alone")
    metadata = folder / "gradiometer-0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: gradiometer\nVersion: 0\n")
    lines = []
    for group, points in PROJECT["entry-points"].items():
        kept = [f"{name} = {path}" for name, path in points.items() if not path.startswith(LAB)]
        lines += [f"[{group}]", *kept]
    (metadata / "entry_points.txt").write_text("\n".join(lines) + "\n")
    (folder / f"{LAB}.py").write_text("raise ImportError('the laboratory is not installed')\n")
    return folder


def _python(alone: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    paths = [str(alone), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    return subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, text=True, check=False
    )


def test_show_names_each_gauge_that_is_left_out(run: Run, alone: Path) -> None:
    shown = _python(alone, "-m", "gradiometer", "show", str(run.path))
    assert shown.returncode == 0 and "Traceback" not in shown.stdout + shown.stderr
    printed = " ".join(shown.stdout.split())
    readings = {name: len(run.series(name) or ()) for name in gauges_of_the_lab()}
    for name, count in readings.items():
        assert count > 0, name
        assert f"No installed package has the gauge '{name}'." in printed
        assert re.search(rf"has {count} readings? of it", printed)


def test_the_other_estimates_stay_the_same(run: Run, alone: Path) -> None:
    estimates = {}
    for place in (alone, alone / "nothing"):
        shown = _python(place, "-m", "gradiometer", "show", str(run.path), "--json")
        estimates[place] = json.loads(shown.stdout)["estimates"]
    without, whole = estimates.values()
    assert without["noise_scale"] and set(without) < set(whole)
    assert without == {name: whole[name] for name in without}


def test_a_public_name_of_the_laboratory_says_what_is_missing(alone: Path) -> None:
    ended = _python(alone, "-c", "from gradiometer.estimation import GradientNoise, NoiseShape")
    assert ended.returncode == 1 and "cannot import name 'NoiseShape'" in ended.stderr
    code = "import gradiometer.estimation as room; room.NoiseShape"
    ended = _python(alone, "-c", code)
    assert "gradiometer.estimation.NoiseShape is in gradiometer_lab, which is" in ended.stderr


def test_gradiometer_works_without_the_laboratory(alone: Path) -> None:
    helped = _python(alone, "-m", "gradiometer", "--help")
    assert helped.returncode == 0 and "train" in helped.stdout and "\n  learn " not in helped.stdout
