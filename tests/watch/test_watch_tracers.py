"""A loop may trace, script or compile its model between any two steps: no hook of a watch is seen."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gradiometer import watch

STEPS = 24


def model_of_two_layers() -> nn.Module:
    torch.manual_seed(0)
    inner = nn.Sequential(nn.BatchNorm1d(4), nn.ReLU())
    return nn.Sequential(nn.Linear(3, 4), inner, nn.Linear(4, 2))


def compiled(model: nn.Module, inputs: Tensor) -> Any:
    torch._dynamo.reset()
    return torch.compile(model, fullgraph=True, backend="eager")


MAKERS: dict[str, Callable[[nn.Module, Tensor], Any]] = {
    "trace": torch.jit.trace,
    "script": lambda model, _: torch.jit.script(model),
    "fx": lambda model, _: torch.fx.symbolic_trace(model),
    "compile": compiled,
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("gives_batch", [True, False])
@pytest.mark.parametrize("kind", MAKERS)
def test_a_model_is_traced_between_any_two_steps(
    kind: str, gives_batch: bool, tmp_path: Path
) -> None:
    model = model_of_two_layers()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    inputs, labels = torch.randn(8, 3), torch.arange(8) % 2
    with watch(model, optimizer, out=tmp_path, page=False, quiet=True) as w:
        for _ in range(STEPS):
            model.eval()
            made = MAKERS[kind](model, inputs)
            with torch.no_grad():
                torch.testing.assert_close(made(inputs), model(inputs))
            model.train()
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(inputs), labels)
            loss.backward()
            w.step(loss, (inputs, labels) if gives_batch else None)
            optimizer.step()
    assert w.steps == STEPS
    assert not w.findings().warnings
    assert w.run is not None
    assert w.run.signs  # looks were made all the same


@pytest.mark.filterwarnings("ignore")
def test_scripting_leaves_the_hooks_of_others_and_puts_ours_back_in_order(tmp_path: Path) -> None:
    model = model_of_two_layers()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    plain = torch.jit._recursive.create_script_module
    with watch(model, optimizer, out=tmp_path, page=False, quiet=True):
        before = [list(layer._forward_pre_hooks.items()) for layer in model.modules()]
        assert any(before)
        torch.jit.script(model)
        after = [list(layer._forward_pre_hooks.items()) for layer in model.modules()]
        assert before == after
    assert torch.jit._recursive.create_script_module is plain
