"""The trainings on which the estimate from products was chosen, and those that judge it, which were
named before."""

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional

from noise.larger import Memory, Patches, Residual
from noise.products import Training
from noise.runs import (
    Characters,
    Data,
    Optimizer,
    Recurrent,
    adamw,
    convolutions,
    cosine,
    drop,
    images,
    itself,
    linear,
    markov,
    one_cycle,
    perceptron,
    sgd,
    staircase,
    teacher,
    text,
)

entropy = functional.cross_entropy
squared = functional.mse_loss


def digits() -> Data:
    """The first digits."""
    return images("digits", 1400)


def fashion(examples: int = 2000) -> Callable[[], Data]:
    """The first pictures of Fashion-MNIST."""
    return lambda: images("fashion-mnist", examples)


def wrong(data: Callable[[], Data], share: float) -> Callable[[], Data]:
    """The same with labels drawn at random for a share of the examples."""

    def made() -> Data:
        inputs, labels = data()
        generator = torch.Generator().manual_seed(11)
        drawn = torch.randint(int(labels.max()) + 1, labels.shape, generator=generator)
        return inputs, torch.where(
            torch.rand(labels.shape, generator=generator) < share, drawn, labels
        )

    return made


def heavy(examples: int) -> Callable[[], Data]:
    """A regression whose noise has Student's distribution with 2.5 degrees of freedom."""

    def made() -> Data:
        inputs, outputs = teacher(examples, 20)
        generator = torch.Generator().manual_seed(12)
        normal = torch.randn(examples, 1, generator=generator)
        chi = torch.distributions.Chi2(2.5)
        torch.manual_seed(12)
        return inputs, outputs + normal / (chi.sample((examples, 1)) / 2.5).sqrt()

    return made


def nesterov(rate: float, momentum: float) -> Optimizer:
    """SGD with Nesterov's momentum."""
    return lambda parameters: torch.optim.SGD(parameters, lr=rate, momentum=momentum, nesterov=True)


def normalised(*channels: int, features: int) -> nn.Module:
    """Convolutions of stride 2 with BatchNorm, then one linear layer to 10 classes."""
    layers: list[nn.Module] = []
    for before, after in pairwise((1, *channels)):
        layers += [
            nn.Conv2d(before, after, 3, stride=2, padding=1),
            nn.BatchNorm2d(after),
            nn.ReLU(),
        ]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(features, 10))


def dropout(*widths: int, share: float) -> nn.Module:
    """Linear layers with Dropout behind each hidden one."""
    layers: list[nn.Module] = [nn.Flatten()]
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU(), nn.Dropout(share)]
    return nn.Sequential(*layers[:-2])


def characters(symbols: int, width: int, blocks: int, length: int) -> Callable[[], nn.Module]:
    """A causal transformer."""
    return lambda: Characters(symbols, width, blocks, length)


CHOOSING = {
    "digits MLP, SGD": Training(
        digits, lambda: perceptron(64, 64, 10), entropy, sgd(0.1), batch=64
    ),
    "Fashion MLP, SGD": Training(fashion(), lambda: perceptron(784, 32, 10), entropy, sgd(0.1)),
    "Fashion CNN, SGD, drop": Training(
        fashion(),
        lambda: convolutions(8, 16, features=784),
        entropy,
        sgd(0.1),
        drop(0.6, 0.1),
        batch=64,
    ),
    "digits MLP, momentum": Training(
        digits, lambda: perceptron(64, 48, 10), entropy, sgd(0.02, 0.9)
    ),
    "Fashion CNN, momentum": Training(
        fashion(), lambda: convolutions(8, 8, features=392), entropy, sgd(0.05, 0.9), batch=64
    ),
    "digits CNN, OneCycle": Training(
        digits,
        lambda: convolutions(8, 16, features=64),
        entropy,
        sgd(0.1, 0.9),
        one_cycle,
        batch=64,
    ),
    "digits MLP, AdamW": Training(
        digits, lambda: perceptron(64, 48, 24, 10), entropy, adamw(3e-3), batch=32
    ),
    "Fashion CNN, AdamW, cosine": Training(
        fashion(), lambda: convolutions(8, 16, features=784), entropy, adamw(3e-3), cosine, batch=64
    ),
    "text transformer, AdamW": Training(
        lambda: text(2000, 32), characters(128, 32, 1, 32), entropy, adamw(2e-3), chunk=16
    ),
    "Fashion MLP, SGD, reshuffled": Training(
        fashion(3000), lambda: perceptron(784, 40, 10), entropy, sgd(0.1), batch=50, reshuffled=True
    ),
}
"""Digits and Fashion-MNIST, a transformer: SGD, momentum, AdamW."""

JUDGING = {
    "text GPT, AdamW, cosine": Training(
        lambda: text(1500, 24),
        characters(128, 48, 2, 24),
        entropy,
        adamw(2e-3),
        cosine,
        batch=24,
        chunk=20,
    ),
    "Fashion BatchNorm CNN, momentum, cosine": Training(
        fashion(2400),
        lambda: normalised(8, 16, features=784),
        entropy,
        sgd(0.05, 0.9),
        cosine,
        coupled=True,
        passes=40,
    ),
    "Fashion Dropout MLP, AdamW": Training(
        fashion(2400),
        lambda: dropout(784, 64, 64, 10, share=0.3),
        entropy,
        adamw(1e-3),
        coupled=True,
        passes=40,
    ),
    "Markov GRU, AdamW, OneCycle": Training(
        lambda: markov(1600, 20, 16),
        lambda: Recurrent(16, 48),
        entropy,
        adamw(5e-3),
        one_cycle,
        chunk=20,
        passes=40,
    ),
    "heavy regression, SGD": Training(
        heavy(2000), lambda: perceptron(20, 48, 1, kind=nn.Tanh), squared, sgd(0.02), batch=32
    ),
    "heavy regression, AdamW, linear": Training(
        heavy(2200), lambda: perceptron(20, 48, 48, 1), squared, adamw(2e-3), linear, batch=32
    ),
    "Fashion wrong labels, SGD": Training(
        wrong(fashion(2200), 0.4),
        lambda: perceptron(784, 48, 10, kind=nn.GELU),
        entropy,
        sgd(0.05),
        batch=48,
    ),
    "digits wrong labels, momentum": Training(
        wrong(digits, 0.3),
        lambda: convolutions(8, 16, features=64),
        entropy,
        sgd(0.02, 0.9),
        batch=32,
    ),
    "Fashion MLP of 5 million, AdamW": Training(
        fashion(1500),
        lambda: perceptron(784, 1800, 1800, 200, 10),
        entropy,
        adamw(3e-4),
        batch=32,
        steps=500,
        chunk=50,
        passes=25,
    ),
    "digits tanh, SGD, reshuffled": Training(
        digits,
        lambda: perceptron(64, 80, 10, kind=nn.Tanh),
        entropy,
        sgd(0.1),
        batch=28,
        reshuffled=True,
    ),
    "Fashion CNN, AdamW, reshuffled": Training(
        fashion(2000),
        lambda: convolutions(6, 12, features=588),
        entropy,
        adamw(2e-3),
        batch=40,
        reshuffled=True,
    ),
    "Fashion patches, SGD": Training(
        fashion(1600), lambda: Patches(32, 1), entropy, sgd(0.1), batch=32, passes=40
    ),
    "Fashion residual, Nesterov, OneCycle": Training(
        fashion(2000),
        lambda: Residual(784, 32, 2),
        entropy,
        nesterov(0.03, 0.9),
        one_cycle,
        batch=32,
    ),
    "text LSTM, momentum": Training(
        lambda: text(1500, 20),
        lambda: Memory(128, 48),
        entropy,
        sgd(0.5, 0.9),
        batch=32,
        steps=1000,
        passes=40,
    ),
}
"""None of these was looked at before the method was fixed."""


def pairs_of_symbols(examples: int) -> Data:
    """Two symbols of 24 each, and whether a fixed random table has a one at their place."""
    generator = torch.Generator().manual_seed(13)
    table = torch.rand(24, 24, generator=generator) < 0.5
    symbols = torch.randint(24, (examples, 2), generator=generator)
    return symbols, table[symbols[:, 0], symbols[:, 1]].long()


def groups(examples: int) -> Data:
    """Points of eight Gaussian groups in 30 dimensions that overlap, and their groups."""
    generator = torch.Generator().manual_seed(14)
    centres = torch.randn(8, 30, generator=generator)
    labels = torch.randint(8, (examples,), generator=generator)
    points = centres[labels] + 1.5 * torch.randn(examples, 30, generator=generator)
    return points, labels


def tables(*widths: int) -> nn.Module:
    """An embedding of symbols, then linear layers with BatchNorm."""
    layers: list[nn.Module] = [nn.Embedding(24, widths[0] // 2), nn.Flatten()]
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.BatchNorm1d(after), nn.SiLU()]
    return nn.Sequential(*layers[:-2])


FRESH = {
    "text transformer, AdamW, OneCycle": Training(
        lambda: text(1200, 16),
        characters(128, 32, 2, 16),
        entropy,
        adamw(4e-3),
        one_cycle,
        batch=16,
        steps=800,
        chunk=20,
        passes=40,
    ),
    "pairs BatchNorm, AdamW, cosine": Training(
        lambda: pairs_of_symbols(1500),
        lambda: tables(32, 64, 2),
        entropy,
        adamw(3e-3),
        cosine,
        steps=900,
        coupled=True,
        passes=40,
    ),
    "digits Dropout MLP, momentum": Training(
        digits,
        lambda: dropout(64, 96, 10, share=0.2),
        entropy,
        sgd(0.02, 0.9),
        steps=800,
        coupled=True,
        passes=40,
    ),
    "Markov LSTM, Nesterov": Training(
        lambda: markov(1200, 12, 12),
        lambda: Memory(12, 32),
        entropy,
        nesterov(0.1, 0.9),
        batch=32,
        steps=800,
        chunk=20,
        passes=40,
    ),
    "heavy regression, momentum, staircase": Training(
        heavy(1600),
        lambda: perceptron(20, 64, 32, 1),
        squared,
        sgd(3e-3, 0.9),
        staircase,
        batch=16,
        steps=1000,
        passes=50,
    ),
    "digits wrong labels, AdamW, cosine": Training(
        wrong(digits, 0.2),
        lambda: perceptron(64, 64, 64, 10, kind=nn.GELU),
        entropy,
        adamw(2e-3),
        cosine,
        batch=48,
        steps=1000,
        passes=50,
    ),
    "Fashion MLP of 5.1 million, momentum": Training(
        fashion(1200),
        lambda: perceptron(784, 2000, 1750, 10),
        entropy,
        sgd(0.01, 0.9),
        batch=32,
        steps=500,
        chunk=50,
        passes=25,
    ),
    "Fashion CNN, SGD, staircase": Training(
        fashion(1600),
        lambda: convolutions(6, 12, features=588),
        entropy,
        sgd(0.15),
        staircase,
        batch=24,
        steps=1000,
        passes=50,
    ),
    "digits autoencoder, AdamW": Training(
        lambda: itself(1400),
        lambda: perceptron(64, 32, 12, 32, 64),
        squared,
        adamw(2e-3),
        batch=24,
        steps=900,
        passes=45,
    ),
    "groups MLP, Nesterov, linear, reshuffled": Training(
        lambda: groups(1600),
        lambda: perceptron(30, 40, 8, kind=nn.Tanh),
        entropy,
        nesterov(0.03, 0.9),
        linear,
        batch=32,
        steps=1000,
        reshuffled=True,
        passes=50,
    ),
    "digits CNN, SGD, reshuffled": Training(
        digits,
        lambda: convolutions(6, 12, features=48),
        entropy,
        sgd(0.2),
        batch=20,
        steps=1000,
        reshuffled=True,
        passes=50,
    ),
    "Fashion patches, AdamW, drop": Training(
        fashion(1200),
        lambda: Patches(24, 1),
        entropy,
        adamw(3e-3),
        drop(0.5, 0.2),
        batch=24,
        steps=800,
        chunk=20,
        passes=40,
    ),
    "regression tanh, SGD": Training(
        lambda: teacher(1600, 16),
        lambda: perceptron(16, 32, 32, 1, kind=nn.Tanh),
        squared,
        sgd(0.05),
        batch=16,
        steps=1000,
        passes=50,
    ),
    "text GRU, momentum, cosine": Training(
        lambda: text(1200, 16),
        lambda: Recurrent(128, 40),
        entropy,
        sgd(0.3, 0.9),
        cosine,
        batch=24,
        steps=800,
        chunk=20,
        passes=40,
    ),
}
"""Named before the short runs' readings and the narrower prior were judged, and looked at once."""
