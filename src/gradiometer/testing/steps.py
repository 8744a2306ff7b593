"""Steps of a small training to measure, and the state that measuring must not change."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import nn

from gradiometer.measurement.motion import Origin
from gradiometer.measurement.objective import Objective, supervised
from gradiometer.measurement.reading import Draw, Sampling
from gradiometer.measurement.step import TrainingStep

BATCH = 12
EXAMPLES = 240
LEARNING_RATE = 0.05


def example_steps(count: int = 20) -> Iterator[TrainingStep]:
    """The steps of a training of a small classifier by plain SGD, each between `backward` and the
    update. They are the same at every call.

    Every attribute that a gauge may ask for is there: gradients, parts, the graph, the motion, and
    a preconditioner.

    Args:
        count: Number of steps.

    >>> from gradiometer.testing import example_steps
    >>> [step.index for step in example_steps(3)], next(example_steps()).batch_size
    ([0, 1, 2], 12)
    """
    random = torch.Generator().manual_seed(0)
    # a layer draws its first parameters from the global generator
    with torch.random.fork_rng(devices=[]):
        model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 5))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=random) / 4)
    objective = Objective(model, supervised(nn.CrossEntropyLoss(reduction="none")))
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)
    inputs = torch.randn(EXAMPLES, 8, generator=random)
    labels = torch.randint(5, (EXAMPLES,), generator=random)
    origin = Origin()
    for index in range(count):
        drawn = torch.randint(EXAMPLES, (BATCH,), generator=random)
        batch = inputs[drawn], labels[drawn]
        optimizer.zero_grad()
        objective.loss(model, batch).mean().backward()
        yield TrainingStep(
            objective,
            batch,
            index=index,
            learning_rate=LEARNING_RATE,
            sampling=Sampling(Draw.REPLACEMENT, EXAMPLES),
            gradient=[parameter.grad for parameter in model.parameters()],
            preconditioner=[torch.ones_like(parameter) for parameter in model.parameters()],
            motion=origin.motion(list(model.parameters()), index),
        )
        optimizer.step()


def training_state(model: nn.Module) -> list[Any]:
    """Everything that measuring must not change, as values that compare bit for bit.

    The parameters, their gradients and names, buffers, the mode of each module, and the states of
    the random generators of PyTorch and NumPy.

    Args:
        model: The model that is trained.

    >>> import torch
    >>> from gradiometer.testing import training_state
    >>> model = torch.nn.Linear(2, 1)
    >>> before = training_state(model)
    >>> _ = torch.rand(1)  # moves the random generator
    >>> training_state(model) == before
    False
    """
    tensors = [
        *model.parameters(),
        *model.buffers(),
        *(p.grad for p in model.parameters() if p.grad is not None),
    ]
    return [
        [
            tensor.detach().clone().view(torch.uint8).tolist() if tensor.dim() else tensor.item()
            for tensor in tensors
        ],
        [module.training for module in model.modules()],
        torch.get_rng_state().tolist(),
        [np.asarray(part).tolist() for part in np.random.get_state()],  # noqa: NPY002
        [p.requires_grad for p in model.parameters()],
        [(name, type(p)) for name, p in model.named_parameters(remove_duplicate=False)],
    ]
