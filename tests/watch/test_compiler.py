"""What torch needs for compiling is not imported by a gradient."""

import subprocess
import sys

import pytest


@pytest.mark.slow
def test_a_gradient_does_not_import_what_torch_needs_for_symbolic_shapes() -> None:
    """It takes half a second. A product with the Hessian does import it, inside of torch."""
    program = """
import sys
import torch
from gradiometer import Objective
objective = Objective(torch.nn.Linear(2, 1), lambda model, batch: model(batch).square().flatten())
(weight, bias), batch = objective.gradient(torch.ones(4, 2)), torch.ones(4, 2)
assert "torch.fx.experimental.symbolic_shapes" not in sys.modules
expected = torch.autograd.grad(objective.loss(objective.model, batch).mean(), objective.parameters)
assert torch.equal(weight, expected[0]) and torch.equal(bias, expected[1])
print("never")
"""
    done = subprocess.run(
        [sys.executable, "-c", program], check=False, capture_output=True, text=True
    )
    assert done.stdout.strip() == "never", done.stderr
