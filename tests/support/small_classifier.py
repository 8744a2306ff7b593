"""A small classification that tests train in a loop of their own."""

import torch
from torch import Tensor, nn

STEPS = 60
ROWS = torch.Generator().manual_seed(5)
INPUTS = torch.randn(256, 8, generator=ROWS)
LABELS = (INPUTS @ torch.randn(8, 4, generator=ROWS)).argmax(dim=1)


def network(*, dropout: float = 0.0) -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Dropout(dropout), nn.Linear(16, 4))


def loss_of(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="none")


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1)
