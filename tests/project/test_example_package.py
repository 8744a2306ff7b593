"""The package of `examples/` that adds to gradiometer: installed, used, and removed again."""

import json
import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ADDED = ROOT / "examples" / "added_package"
USE_IT = """
import sys
from pathlib import Path

import torch
from gradiometer import GAUGES, diagnose, say, watch
from gradiometer.jobs import Job, pool_of
from gradiometer.report.page import write_page
from gradiometer.testing import check_gauge

check_gauge(GAUGES["radial"]())
torch.manual_seed(0)
model = torch.nn.Linear(8, 3)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
def loss_of(model, batch):
    return torch.nn.functional.cross_entropy(model(batch[0]), batch[1])


with watch(model, optimizer, loss=loss_of, gauges="radial", every=1, out="runs", page=False) as w:
    for _ in range(40):
        optimizer.zero_grad()
        batch = torch.randn(16, 8), torch.randint(3, (16,))
        loss = loss_of(model, batch)
        loss.backward()
        w.step(loss, batch)
        optimizer.step()
diagnosis = diagnose(w.run)
print(*(say(finding).seen for finding in diagnosis.findings if finding.gauge == "radial"))
write_page(w.run, diagnosis, Path(sys.argv[1]))
print(pool_of("idle:10000").results([Job("seven", lambda: 7)]))
"""


def test_it_has_at_most_eighty_lines() -> None:
    assert sum(len(path.read_text().splitlines()) for path in ADDED.glob("*.py")) <= 80


@pytest.mark.slow
def test_it_is_installed_beside_a_wheel_used_and_removed_without_a_trace(tmp_path: Path) -> None:
    pytest.importorskip("hatchling")
    python = _environment(tmp_path)
    _ended(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path, cwd=ROOT)
    (wheel,) = tmp_path.glob("*.whl")
    _ended(*_pip(python), wheel, cwd=tmp_path)
    before = _files(tmp_path)
    bare = _ended(python, "-m", "gradiometer", "--help", cwd=tmp_path)

    _ended(*_pip(python), _copied(ADDED, tmp_path / "added"), cwd=tmp_path)
    helped = _ended(python, "-m", "gradiometer", "--help", cwd=tmp_path)
    assert "radial" in helped and "radial" not in bare and "learn" in bare
    (tmp_path / "use_it.py").write_text(USE_IT)
    used = _ended(python, "use_it.py", tmp_path / "page.html", cwd=tmp_path)
    assert "of the squared gradient is parallel to the weights." in used and "[7]" in used
    page = (tmp_path / "page.html").read_text()
    assert "Does the scale of the weights matter?" in page and "Scale of the weights" in page
    (run,) = (tmp_path / "runs").rglob("run.toml")
    printed = _ended(python, "-m", "gradiometer", "radial", run.parent, cwd=tmp_path)
    assert "[" in printed

    _ended(python, "-m", "pip", "uninstall", "-q", "-y", "gradiometer-radial", cwd=tmp_path)
    assert _ended(python, "-m", "gradiometer", "--help", cwd=tmp_path) == bare
    assert _files(tmp_path) == before
    shown = json.loads(
        _ended(python, "-m", "gradiometer", "show", run.parent, "--json", cwd=tmp_path)
    )
    assert "No installed package has the gauge 'radial'" in json.dumps(shown)


def _environment(folder: Path) -> Path:
    """The Python of a new environment that sees the packages beside this Python, and no checkout."""
    venv.create(folder / "venv", with_pip=True)
    (site,) = (folder / "venv" / "lib").glob("*/site-packages")
    beside = [path for path in sys.path if Path(path).name == "site-packages"]
    (site / "beside.pth").write_text("\n".join(beside) + "\n")
    return folder / "venv" / "bin" / "python"


def _pip(python: Path) -> tuple[str | Path, ...]:
    offline = ("--no-index", "--no-deps", "--no-build-isolation", "--ignore-installed")
    return (python, "-m", "pip", "install", "-q", *offline)


def _copied(folder: Path, to: Path) -> Path:
    """A copy, since building leaves files beside what is built."""
    to.mkdir()
    for path in folder.glob("*.*"):
        (to / path.name).write_bytes(path.read_bytes())
    return to


def _files(folder: Path) -> set[Path]:
    """What is installed, without compiled files."""
    return {
        path
        for path in (folder / "venv").rglob("*")
        if path.suffix != ".pyc" and path.name != "__pycache__"
    }


def _ended(*command: str | Path, cwd: Path) -> str:
    environment = {name: text for name, text in os.environ.items() if name != "PYTHONPATH"}
    ended = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout
