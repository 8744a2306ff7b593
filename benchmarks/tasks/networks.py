"""The networks and losses of the tasks on which tuning is judged. Recurrent networks and attention are
written out, so that many copies of them can be trained at once."""

import torch
from noise.runs import perceptron
from torch import Tensor, nn
from torch.nn import functional


def entropy(outputs: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy of an example, averaged over its positions if it has several."""
    losses = functional.cross_entropy(outputs, labels, reduction="none")
    return losses.flatten(1).mean(1) if losses.dim() > 1 else losses


def squared(outputs: Tensor, targets: Tensor) -> Tensor:
    """Half the squared error of an example, averaged over its outputs."""
    return (outputs - targets).square().flatten(1).mean(1) / 2


def gaussian(values: Tensor, mean: Tensor, log_deviation: Tensor) -> Tensor:
    """Minus the log density of a Gaussian at each value, without its constant."""
    return log_deviation + ((values - mean) * (-log_deviation).exp()).square() / 2


class Vectors(nn.Module):
    """The logarithm of how often two words stand together, as a product of their vectors."""

    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        self.count = count
        self.left = nn.Parameter(0.1 * torch.randn(count, width))
        self.right = nn.Parameter(0.1 * torch.randn(count, width))
        self.level = nn.Parameter(torch.zeros(count, 2))

    def forward(self, pairs: Tensor) -> Tensor:
        """The logarithms for pairs of words."""
        one, other = (
            functional.one_hot(pairs[:, place], self.count).to(self.left.dtype) for place in (0, 1)
        )
        product = ((one @ self.left) * (other @ self.right)).sum(1, keepdim=True)
        return product + one @ self.level[:, :1] + other @ self.level[:, 1:]


class Gates(nn.Module):
    """A GRU or an LSTM written out, so that it can be stacked, and a linear layer on its states.

    Args:
        kind: "gru" or "lstm".
        inputs: Numbers of a step.
        width: Numbers of the state.
        outputs: Numbers that come out.
        each: True for outputs of every step, False for those of the last.
    """

    def __init__(self, kind: str, inputs: int, width: int, outputs: int, each: bool) -> None:
        super().__init__()
        self.kind, self.width, self.each = kind, width, each
        gates = 3 if kind == "gru" else 4
        self.into = nn.Linear(inputs, gates * width)
        self.back = nn.Linear(width, gates * width, bias=False)
        self.out = nn.Linear(width, outputs)

    def forward(self, sequences: Tensor) -> Tensor:
        """The outputs, with the steps last."""
        state = sequences.new_zeros(len(sequences), self.width)
        memory = state
        states = []
        for step in range(sequences.shape[1]):
            into, back = self.into(sequences[:, step]), self.back(state)
            if self.kind == "gru":
                one, two, three = (part.chunk(3, dim=1) for part in (into, back, into))
                reset, keep = torch.sigmoid(one[0] + two[0]), torch.sigmoid(one[1] + two[1])
                state = keep * state + (1 - keep) * torch.tanh(three[2] + reset * two[2])
            else:
                write, forget, show, new = (into + back).chunk(4, dim=1)
                memory = torch.sigmoid(forget + 1) * memory + torch.sigmoid(write) * new.tanh()
                state = torch.sigmoid(show) * memory.tanh()
            states.append(state)
        if self.each:
            return self.out(torch.stack(states, dim=1)).transpose(1, 2)
        return self.out(state)


class Block(nn.Module):
    """A pre-norm block of a transformer: attention with two heads, then two linear layers."""

    def __init__(self, width: int, causal: bool) -> None:
        super().__init__()
        self.causal = causal
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.into, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.feed = nn.Sequential(
            nn.Linear(width, 3 * width), nn.GELU(), nn.Linear(3 * width, width)
        )

    def forward(self, hidden: Tensor) -> Tensor:
        """The new state of every position."""
        examples, length, width = hidden.shape
        parts = self.into(self.first(hidden)).view(examples, length, 3, 2, width // 2)
        query, key, value = parts.permute(2, 0, 3, 1, 4).unbind(0)
        scores = query @ key.transpose(-1, -2) / (width // 2) ** 0.5
        if self.causal:
            later = torch.ones(length, length, dtype=torch.bool).triu(1)
            scores = scores.masked_fill(later, float("-inf"))
        seen = (scores.softmax(-1) @ value).transpose(1, 2).reshape(examples, length, width)
        hidden = hidden + self.out(seen)
        return hidden + self.feed(self.second(hidden))


class Transformer(nn.Module):
    """Blocks over a sequence of vectors; predicts at every position, or once from their mean."""

    def __init__(self, inputs: int, width: int, length: int, outputs: int, causal: bool) -> None:
        super().__init__()
        self.causal = causal
        self.into = nn.Linear(inputs, width)
        self.places = nn.Parameter(0.02 * torch.randn(length, width))
        self.blocks = nn.Sequential(Block(width, causal), Block(width, causal))
        self.norm, self.out = nn.LayerNorm(width), nn.Linear(width, outputs)

    def forward(self, sequences: Tensor) -> Tensor:
        """Logits, with the positions last if there are several."""
        hidden = self.norm(self.blocks(self.into(sequences) + self.places))
        return self.out(hidden).transpose(1, 2) if self.causal else self.out(hidden.mean(1))


class Bottleneck(nn.Module):
    """A residual block with BatchNorm that halves the picture and changes its channels."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(before, 8, 1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, after, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(after),
        )
        self.past = nn.Conv2d(before, after, 1, stride=2, bias=False)

    def forward(self, pictures: Tensor) -> Tensor:
        """The next picture."""
        return functional.relu(self.past(pictures) + self.layers(pictures))


class Autoencoder(nn.Module):
    """A variational autoencoder; the noise of an example comes after its pixels."""

    def __init__(self, pixels: int, hidden: int, width: int) -> None:
        super().__init__()
        self.pixels = pixels
        self.into = perceptron(pixels, width, 2 * hidden, kind=nn.Tanh)
        self.out = perceptron(hidden, width, pixels, kind=nn.Tanh)
        self.spread = nn.Parameter(torch.zeros(pixels))

    def forward(self, given: Tensor) -> tuple[Tensor, Tensor]:
        """What is drawn from the code, and the distance of the code from its prior."""
        mean, log = self.into(given[:, : self.pixels]).chunk(2, dim=1)
        distance = (mean.square() + (2 * log).exp() - 1 - 2 * log).sum(1) / 2
        return self.out(mean + log.exp() * given[:, self.pixels :]), distance


class Flow(nn.Module):
    """Couplings that shift and scale half of the values by what the other half says."""

    def __init__(self, values: int, width: int, couplings: int) -> None:
        super().__init__()
        self.half = values // 2
        self.networks = nn.ModuleList(
            perceptron(self.half, width, 2 * (values - self.half), kind=nn.Tanh)
            for _ in range(couplings)
        )

    def forward(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """What should be Gaussian, and minus the logarithm of the change of volume."""
        volume = values.new_zeros(len(values))
        for network in self.networks:
            known, changed = values[:, : self.half], values[:, self.half :]
            shift, log = network(known).chunk(2, dim=1)
            changed = (changed - shift) * (-log).exp()
            volume = volume + log.sum(1)
            values = torch.cat([changed, known], dim=1)
        return values, volume
