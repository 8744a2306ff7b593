"""Problems whose loss spikes: one bad example, many bad batches in a row, and a curvature that
grows past the edge."""

import torch
from torch import Tensor, nn

from gradiometer import Draw, supervised
from gradiometer.measurement import Order
from gradiometer.problems import Examples, Problem


def bad_example() -> Problem:
    """One example far from all others. With batches of 8 it is in that of step 500."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(6400, 4, generator=generator)
    targets = inputs @ torch.tensor([[1.0], [-1.0], [0.5], [2.0]]) + torch.randn(
        6400, 1, generator=generator
    )
    targets[Order(Draw.RESHUFFLED, 6400, 8).batch(500)[0]] = 120.0
    loss = supervised(lambda output, target: (output - target).square().mean(1))
    return Problem("bad-example", lambda: nn.Linear(4, 1), loss, Examples((inputs, targets)))


def bad_stretch() -> Problem:
    """With batches of 8, the losses of steps 300 to 359 are a little higher. Single ones are higher
    all the time."""
    generator = torch.Generator().manual_seed(0)
    order = Order(Draw.RESHUFFLED, 4800, 8)
    noise = 2 + 0.1 * torch.randn(4800, generator=generator)
    for step in range(0, 600, 20):
        noise[order.batch(step + step // 20 % 7)] += 2.0
    noise[torch.cat([order.batch(step) for step in range(300, 360)])] += 0.8
    inputs = 0.001 * torch.randn(4800, generator=generator)
    return Problem("bad-stretch", Valley, _raised, Examples((inputs, noise)))


class Valley(nn.Module):
    """½ eᵃ (b − x)² − a / 10. The curvature in b is eᵃ, which grows; its edge is 2/η; a high loss
    pushes it back."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.tensor(1.0)), nn.Parameter(torch.tensor(0.0))

    def forward(self, inputs: Tensor) -> Tensor:
        return 0.5 * self.a.exp() * (self.b - inputs).square() - 0.1 * self.a


def edge() -> Problem:
    """The valley, with noise in the loss that no parameter changes: every batch is harmless."""
    generator = torch.Generator().manual_seed(0)
    inputs = 0.001 * torch.randn(2400, generator=generator)
    noise = 2 + 0.1 * torch.randn(2400, generator=generator)
    return Problem("edge", Valley, _raised, Examples((inputs, noise)))


_raised = supervised(lambda output, target: output + target)
