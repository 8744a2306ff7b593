"""Optimizers without torch's compiler, which is imported when something is compiled."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from gradiometer.jobs import Job, Processes

COMPILED = "torch._dynamo.eval_frame"
"""A module that the compiler imports."""


def trained(name: str) -> tuple[bool, list[float]]:
    """Whether three updates imported the compiler, and the trained weights."""
    model = nn.Linear(2, 1)
    optimizer = getattr(torch.optim, name)(model.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.ones(4, 2)).square().mean().backward()
        optimizer.step()
    optimizer.load_state_dict(optimizer.state_dict())
    return COMPILED in sys.modules, model.weight.flatten().tolist()


@pytest.mark.parametrize("name", ["SGD", "AdamW"])
def test_a_process_of_a_pool_trains_without_importing_the_compiler_and_with_the_same_numbers(name: str) -> None:
    with Processes(1) as pool:
        [(imported, weights)] = pool.results([Job("trained", trained, (name,), seed=3)])
    torch.manual_seed(3)
    assert not imported
    assert weights == trained(name)[1]


def test_once_something_is_compiled_the_real_compiler_is_in_place() -> None:
    program = """
import sys
from pathlib import Path
from gradiometer.compiler import postpone_compiler
postpone_compiler()
import torch
from torch import nn
model = nn.Linear(2, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
assert "torch._dynamo.eval_frame" not in sys.modules
import torch._dynamo as before
compiled = torch.compile(model, backend="eager")
loss = compiled(torch.ones(4, 2)).square().mean()
loss.backward()
optimizer.step()
import torch._dynamo as after
assert after is not before and after is torch._dynamo and after.__file__.endswith("__init__.py")
assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
optimizer.add_param_group({"params": [nn.Parameter(torch.ones(1))]})
inner = torch.optim.Optimizer.add_param_group.__wrapped__
assert inner.__dynamo_disable._torchdynamo_disable
assert before.config is after.config
print("real")
"""
    done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True)
    assert done.stdout.strip() == "real", done.stderr


def test_those_who_list_all_modules_do_not_import_the_compiler() -> None:
    program = """
import inspect, sys
from gradiometer.compiler import postpone_compiler
postpone_compiler()
import torch
from torch import nn
inspect.getmodule(nn.Linear(1, 1).forward.__code__)
assert [hasattr(module, "__file__") for module in list(sys.modules.values())]
assert "torch._dynamo.eval_frame" not in sys.modules
import torch._dynamo.config
assert "torch._dynamo.eval_frame" in sys.modules and torch._dynamo.config.__file__
print("real")
"""
    done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True)
    assert done.stdout.strip() == "real", done.stderr


def test_a_gradient_does_not_import_what_torch_needs_for_symbolic_shapes() -> None:
    """It takes half a second. A product with the Hessian does import it, inside of torch."""
    program = """
import sys
from gradiometer.compiler import postpone_compiler
postpone_compiler()
import torch
from gradiometer import Objective
objective = Objective(torch.nn.Linear(2, 1), lambda model, batch: model(batch).square().flatten())
(weight, bias), batch = objective.gradient(torch.ones(4, 2)), torch.ones(4, 2)
assert "torch.fx.experimental.symbolic_shapes" not in sys.modules
expected = torch.autograd.grad(objective.loss(objective.model, batch).mean(), objective.parameters)
assert torch.equal(weight, expected[0]) and torch.equal(bias, expected[1])
print("never")
"""
    done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True)
    assert done.stdout.strip() == "never", done.stderr


def test_a_training_with_curvature_a_certificate_and_a_fork_do_not_import_the_compiler(tmp_path: Path) -> None:
    program = """
import sys
from pathlib import Path
from gradiometer.cli import main
run = "runs/digits-mlp-1"
for command in (
    ["train", "digits", "--model", "mlp", "--steps", "20", "--every", "5", "-q", "--no-open"],
    ["certify", run, "--examples", "32", "--batches", "8"],
    ["sharpness", run, "--examples", "32", "--top", "1", "--probes", "4"],
    ["fork", run, "--rate", "2x", "--at", "0", "--horizon", "2 updates", "--replicates", "2"],
):
    try:
        main(command)
    except SystemExit as ended:
        assert ended.code == 0, command
    assert "torch._dynamo.eval_frame" not in sys.modules, command
print("never")
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=False, capture_output=True, text=True)
    assert done.stdout.endswith("never\n"), done.stderr
