"""What a watch loads: the modules that few trainings need are loaded when they are needed."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import gradiometer

IMPORT = """
import sys
from gradiometer import watch
"""

STEPS = """
import torch
from torch import nn

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 3))
optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
x, y = torch.randn(32, 20), torch.randint(3, (32,))
with watch(model, optimizer, out="runs", page=False, quiet=True) as w:
    for _ in range(200):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        w.step(loss)
        optimizer.step()
    assert w.findings()
"""

LIST = """
modules = [module for name, module in sys.modules.items() if name.startswith("gradiometer")]
print(*(module.__file__ for module in modules if getattr(module, "__file__", None)), sep=":")
"""


def is_docstring(node: ast.stmt) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def statements(path: Path) -> int:
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    return sum(isinstance(node, ast.stmt) and not is_docstring(node) for node in nodes)


@pytest.mark.parametrize(
    ("code", "most"),
    [(IMPORT, 12_000), (IMPORT + STEPS, 16_000)],
    ids=["by its import", "after 200 steps and findings()"],
)
def test_the_statements_that_are_loaded(code: str, most: int, tmp_path: Path) -> None:
    source = str(Path(gradiometer.__file__).parents[1])
    ended = subprocess.run(
        [sys.executable, "-c", code + LIST],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": source},
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = {
        path: statements(Path(path))
        for path in ended.stdout.splitlines()[-1].split(":")
        if path.endswith(".py")
    }
    largest = sorted(loaded, key=loaded.__getitem__)[-40:]
    assert sum(loaded.values()) <= most, [Path(path).relative_to(source) for path in largest]
    assert not any("gradiometer_lab" in path for path in loaded)
