"""Are spikes seen in a loss that falls over decades? `python benchmarks/spikes_over_decades.py [--cases third]`

Losses of small trainings are recorded, and spikes are planted into them. Two tables: which spikes the recorder examines
while it trains, also after an unstable start, and which ones are found afterwards if one loss is exactly zero. Three
sets of trainings: the first was for choosing, the second for choosing again, the third for judging. Two minutes each on
one core; the third set needs Fashion-MNIST on this machine.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import click
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from gradiometer import Objective
from gradiometer.drift.spikes import detection, examination, find_spikes
from gradiometer.problems import load

STEPS, SEEDS, PLANTED = 4000, 2, 8
SPIKES = ((1, 3.0), (1, 10.0), (5, 10.0), (30, 10.0), (30, 100.0))
"""Number of high losses, and the factor by which the loss rises."""

EARLY = (8, 3, 10.0)
"""An unstable start: its number of spikes, and their length and factor. They lie between steps 150 and 1,200."""

Examples = tuple[Tensor, Tensor]
Losses = np.ndarray
Case = tuple[Callable[[], Examples], Callable[[], nn.Module], str, float, int]
"""The data, the network, the optimizer, its learning rate, and the batch."""


def drawn(seed: int, *shape: int) -> Tensor:
    """Normal numbers."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def dense(*widths: int, activation: type[nn.Module] = nn.Tanh) -> nn.Module:
    """A fully connected network over flat inputs."""
    layers = [layer for one, two in pairwise(widths) for layer in (nn.Linear(one, two), activation())]
    return nn.Sequential(nn.Flatten(), *layers[:-1])


def regression(seed: int, examples: int, inputs: int, target: Callable[[Tensor], Tensor]) -> Callable[[], Examples]:
    """Inputs, and a target without noise."""

    def made() -> Examples:
        drawn_inputs = drawn(seed, examples, inputs)
        with torch.no_grad():
            return drawn_inputs, target(drawn_inputs)

    return made


def teacher(inputs: Tensor) -> Tensor:
    torch.manual_seed(5)
    return 3 * dense(8, 6, 1)(inputs)


def digits() -> Examples:
    return load("digits").train.data


def garments() -> Examples:
    images, labels = load("fashion-mnist").train.data
    return images[2000:3000], labels[2000:3000]


def cnn() -> nn.Module:
    first = (nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.ReLU())
    return nn.Sequential(*first, nn.Flatten(), nn.Linear(256, 10))


def low_rank(inputs: Tensor) -> Tensor:
    return inputs @ drawn(3, 10, 3) @ drawn(4, 3, 10)


CASES: dict[str, dict[str, Case]] = {
    "first": {
        "linear": (regression(0, 2000, 20, lambda x: x @ drawn(1, 20, 1)), lambda: dense(20, 1), "sgd", 2e-3, 16),
        "deep linear": (
            *(regression(2, 2000, 10, low_rank), lambda: dense(10, 16, 10, activation=nn.Identity)),
            *("sgd", 0.01, 32),
        ),
        "teacher": (regression(5, 4000, 8, teacher), lambda: dense(8, 32, 1), "adam", 1e-3, 32),
        "digits by heart": (digits, lambda: dense(64, 64, 10, activation=nn.ReLU), "momentum", 0.05, 32),
    },
    "second": {
        "sine": (regression(6, 2000, 1, lambda x: torch.sin(3 * x)), lambda: dense(1, 32, 32, 1), "adam", 3e-3, 32),
        "product": (
            *(regression(7, 4000, 4, lambda x: x[:, :1] * x[:, 1:2]), lambda: dense(4, 32, 32, 1)),
            *("momentum", 0.02, 64),
        ),
        "logarithm": (
            *(regression(8, 3000, 3, lambda x: x.square().sum(1, keepdim=True).log1p()), lambda: dense(3, 48, 1)),
            *("adam", 5e-3, 16),
        ),
        "digits by heart, CNN": (digits, cnn, "adam", 2e-3, 16),
    },
    "third": {
        "bell": (
            *(regression(11, 3000, 2, lambda x: (-x.square().sum(1, keepdim=True)).exp()), lambda: dense(2, 32, 32, 1)),
            *("momentum", 0.05, 32),
        ),
        "angle": (
            *(regression(12, 3000, 2, lambda x: torch.atan2(x[:, :1], x[:, 1:].abs() + 0.2)),),
            *(lambda: dense(2, 32, 32, 1), "adam", 2e-3, 64),
        ),
        "garments by heart": (garments, lambda: dense(784, 64, 10, activation=nn.ReLU), "adam", 1e-3, 32),
        "sorting": (regression(13, 4000, 5, lambda x: x.sort(1).values), lambda: dense(5, 64, 64, 5), "sgd", 0.1, 32),
    },
}


def batches(data: Examples, size: int, seed: int) -> Iterator[Examples]:
    """Epochs in random order, without the last batch if it is smaller."""
    random = torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(len(data[0]), generator=random)
        yield from ((data[0][chosen], data[1][chosen]) for chosen in order.split(size) if len(chosen) == size)


def losses_of(case: Case, seed: int) -> Losses:
    """The training loss of each step."""
    made, network, optimizer, rate, size = case
    data = made()
    torch.manual_seed(seed)
    model = network()
    momentum = 0.9 if optimizer == "momentum" else 0.0
    update: torch.optim.Optimizer = (
        torch.optim.Adam(model.parameters(), rate)
        if optimizer == "adam"
        else torch.optim.SGD(model.parameters(), rate, momentum=momentum)
    )
    loss_of = nn.functional.cross_entropy if data[1].dtype == torch.int64 else nn.functional.mse_loss
    losses = np.zeros(STEPS)
    for step, (inputs, targets) in zip(range(STEPS), batches(data, size, seed), strict=False):
        update.zero_grad()
        loss = loss_of(model(inputs), targets)
        loss.backward()
        update.step()
        losses[step] = loss.item()
    return losses


class InLogarithms(examination.Examiner):
    """A criterion that was tried: the last 64 logarithms, and their spread around the medians of blocks of 16."""

    def learn(self, losses: Sequence[float]) -> None:
        """As in an `Examiner`; the limit is then replaced."""
        super().learn(losses)
        if self.limit < math.inf and self._new == 0:
            logs = np.log(np.maximum(list(self._recent), 1e-30))
            blocks = logs[len(logs) % 16 :].reshape(-1, 16)
            spread = 1.4826 * float(np.median(np.abs(blocks - np.median(blocks, axis=1, keepdims=True))))
            self.limit = math.exp(float(np.median(logs[-64:])) + max(4.5 * spread, math.log1p(examination.RISE)))


def examined(kind: type[examination.Examiner], losses: Losses) -> list[int]:
    """The steps that are examined."""
    examiner, steps = kind(Objective(nn.Linear(1, 1), lambda model, batch: model(batch))), []
    for step, loss in enumerate(losses.tolist()):
        if not loss < examiner.limit:
            steps.append(step)
        examiner.repeat([loss])  # it counts an examination without running the model
    return steps


def planted(losses: Losses, at: int, length: int, factor: float) -> Losses:
    """The losses with a spike that begins at this step; one longer than five steps decays."""
    after = np.arange(length)
    with_spike = losses.copy()
    with_spike[at : at + length] *= factor ** (np.exp(-1.5 * after / length) if length > 5 else 1.0)
    return with_spike


def seen(
    records: Sequence[Losses], length: int, factor: float, looks: Callable[[Losses, range], bool], early: bool
) -> float:
    """The share of planted spikes that is seen."""
    random, hits = np.random.default_rng(11), []
    for record in records:
        for _ in range(PLANTED):
            losses = record
            for start in random.integers(150, 1200, EARLY[0]) if early else ():
                losses = planted(losses, int(start), *EARLY[1:])
            at = int(random.integers(1400, STEPS - 100))
            hits.append(looks(planted(losses, at, length, factor), range(at, at + length)))
    return float(np.mean(hits))


def examinations(records: Sequence[Losses]) -> Table:
    """Examinations in a run without planted spikes, and the share of planted spikes that is examined."""
    table = Table("criterion", "in a run", *(f"{length} x {factor:g}" for length, factor in SPIKES), title="examined")
    for name, kind, more in (
        ("five in a run", examination.Examiner, 10**9),
        ("and one more in 1,000 steps", examination.Examiner, 1000),
        ("that, of logarithms", InLogarithms, 1000),
    ):
        examination.ONE_MORE = more
        alone = np.mean([len(examined(kind, record)) for record in records])

        def looks(losses: Losses, spike: range, kind: type[examination.Examiner] = kind) -> bool:
            return any(step in spike for step in examined(kind, losses))

        for early in (False, True):
            shares = (f"{seen(records, length, factor, looks, early):.2f}" for length, factor in SPIKES)
            table.add_row(f"{name}{', unstable start' if early else ''}", "" if early else f"{alone:.1f}", *shares)
    return table


def with_a_zero(records: Sequence[Losses]) -> Table:
    """Spikes that are found without planted ones, and the share of planted ones, if one loss is zero."""
    table = Table("zeros", "alarms in all", *(f"{length} x {factor:g}" for length, factor in SPIKES), title="found")
    zeroed = [np.where(np.arange(STEPS) == STEPS - 10, 0.0, record) for record in records]
    rates = np.full(STEPS, 0.1)

    def looks(losses: Losses, spike: range) -> bool:
        return any(one.first < spike.stop and one.last >= spike.start for one in find_spikes(losses, rates=rates))

    for name, few, given in (("none", 0.0, records), ("one, no logarithms", 0.0, zeroed), ("one", 0.01, zeroed)):
        detection.FEW_ZEROS = few
        alarms = sum(len(find_spikes(record, rates=rates)) for record in given)
        shares = (f"{seen(given, length, factor, looks, early=False):.2f}" for length, factor in SPIKES)
        table.add_row(name, str(alarms), *shares)
    return table


@click.command(help=__doc__)
@click.option("--cases", type=click.Choice(list(CASES)), default="third", show_default=True)
def main(cases: str) -> None:
    """Print both tables."""
    torch.set_num_threads(1)
    records = [losses_of(case, seed) for case in CASES[cases].values() for seed in range(SEEDS)]
    Console().print(examinations(records), with_a_zero(records))


if __name__ == "__main__":
    main()
