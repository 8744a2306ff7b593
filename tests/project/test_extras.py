"""Each extra brings what it promises, and the core needs none of them."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from lone_extra import absent, needed

ROOT = Path(__file__).parents[2]
PROMISES = {
    "parquet": (
        "from gradiometer.cli import main; main(['runs', 'export', RUN, '--out', 'table.parquet'])"
    ),
    "ray": "from gradiometer.jobs.choice import pool_of; pool_of('ray'); import ray",
    "export": "import onnx, onnxscript, torch; print(torch.onnx.export)",
    "schedulefree": (
        "from gradiometer.measurement.optimizer.steps import schedule_free_class; "
        "schedule_free_class()"
    ),
    "lightning": "from gradiometer.integrations import LightningCallback; LightningCallback(None)",
    "hf": "from gradiometer.integrations import HuggingFaceCallback; HuggingFaceCallback(None)",
    "tensorboard": (
        "from gradiometer.logs import read_log; from pathlib import Path; read_log(Path(LOGS, "
        "'lightning_healthy.tfevents'))"
    ),
    "e2e": "import playwright.sync_api",
    "docs": "import mkdocs, mkdocstrings, material",
    "bench": "import backpack",
    "dev": (
        "import pytest, xdist, beartype, mypy, importlinter, sklearn, curvlinops, pyarrow, "
        "torchmetrics, onnx"
    ),
}
CORE = """
import gradiometer.cli as cli
try:
    cli.main(["train", "quadratic", "-e", "1", "--no-open"])
except SystemExit as ended:
    assert ended.code == 0
cli.main(["show", "runs/quadratic-position-1"])
"""


def alone(extra: str, code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "tests" / "support" / "lone_extra.py"), extra, code]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run, which the core alone has trained and reported."""
    made = tmp_path_factory.mktemp("core")
    done = alone("", CORE, made)
    assert done.returncode == 0 and "noise scale" in done.stdout, done.stderr
    return made


@pytest.mark.slow
@pytest.mark.parametrize("extra", PROMISES)
def test_an_extra_alone_brings_what_it_promises(extra: str, folder: Path) -> None:
    run = next((folder / "runs").iterdir())
    places = f"RUN, LOGS = {str(run)!r}, {str(ROOT / 'tests' / 'logs')!r}\n"
    done = alone(extra, places + PROMISES[extra], folder)
    assert done.returncode == 0, done.stderr


def test_every_extra_has_a_promise() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    assert set(PROMISES) == set(extras)
    assert "pyarrow" in needed("parquet") - needed("") and "pyarrow" in absent("") - absent(
        "parquet"
    )
