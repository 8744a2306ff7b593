"""Do forks with `horizon="end"` tell the effect at the end of a training? Each is followed there.

    python benchmarks/effects_at_end.py                     # the newest judgement, 10 minutes
    python benchmarks/effects_at_end.py --part again        # others, judged before
    python benchmarks/effects_at_end.py --keep FOLDER --only lstm

Small trainings of several kinds are forked at 6, 30 and 60 % of their updates, at half, twice and
four times their rate. Each rate is then followed to the end of the training by a plain loop, in four
other orders of the data; the truth is the mean difference of the losses there, on the same examples.
It exceeds the noise between seeds if its own 90 % interval does not hold 0. Regret is the loss of the
rate whose effect at the end is lowest, over that of the best rate, minus 1.
"""

import argparse
import copy
import json
import math
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from clinic import data as sets
from clinic import fifth, fourth, networks, third
from clinic.data import Data
from torch import Tensor, nn
from torch.nn import functional

from gradiometer.loop import Fork, Loop, fork
from gradiometer.loop.comparison.effects import Effect
from gradiometer.measurement.uncertainty.differences import mean_of_few
from gradiometer.measurement.uncertainty.proportions import proportion

SHARES = (0.06, 0.3, 0.6)
FACTORS = (0.5, 1.0, 2.0, 4.0)
SEEDS = 4
"""Continuations by hand of each rate."""

WARM_UP = 0.05
ROWS = 1_000
"""Rows of the test set and of the training set that a model is read on."""


@dataclass(frozen=True)
class Training:
    """A training that is forked.

    Args:
        data: Makes the data.
        network: Makes the layers.
        optimizer: Makes the optimizer, of parameters and `lr`.
        rate: The highest rate.
        schedule: "cosine", "linear" or "constant", after a warm-up.
        steps, batch: Updates, and the size of a batch.
    """

    data: Callable[[], Data]
    network: Callable[..., Any]
    optimizer: Callable[..., torch.optim.Optimizer]
    rate: float
    schedule: str
    steps: int = 400
    batch: int = 32

    @property
    def name(self) -> str:
        """Network, data, optimizer and schedule."""
        kind = getattr(self.optimizer, "func", self.optimizer).__name__
        return f"{self.network.__name__} on {self.data.__name__}, {kind}, {self.schedule}"

    def factor(self, step: int) -> float:
        """The rate of an update over the highest one."""
        warm = max(round(WARM_UP * self.steps), 1)
        if step < warm:
            return (step + 1) / warm
        gone = min((step - warm) / (self.steps - warm), 1.0)
        if self.schedule == "cosine":
            return (1 + math.cos(math.pi * gone)) / 2
        return 1.0 if self.schedule == "constant" else 1 - gone


MOMENTUM = partial(torch.optim.SGD, momentum=0.9)
DECAY = partial(torch.optim.AdamW, weight_decay=0.05)

PARTS: dict[str, Sequence[Training]] = {
    "development": (
        Training(sets.shifted_digits, networks.convolutions, MOMENTUM, 0.03, "cosine"),
        Training(sets.clusters, networks.perceptron, torch.optim.Adam, 0.003, "linear"),
        Training(sets.friedman, networks.skips, DECAY, 0.002, "constant"),
        Training(sets.markov, networks.gru, torch.optim.Adam, 0.003, "cosine"),
        Training(sets.friedman, networks.deep, torch.optim.SGD, 0.05, "linear"),
    ),
    "judged": (
        Training(third.segments, third.lenet, MOMENTUM, 0.02, "cosine", steps=240),
        Training(sets.swings, networks.lstm, torch.optim.Adam, 0.003, "linear", steps=200),
        Training(third.brackets, third.modern, DECAY, 0.002, "cosine", steps=240),
        Training(third.points, third.of_sets, torch.optim.Adam, 0.002, "constant", steps=240),
        Training(third.film, third.norm_skips, DECAY, 0.002, "linear", steps=500),
        Training(third.gratings, third.separable, torch.optim.Adam, 0.002, "cosine", steps=200),
        Training(third.teacher, networks.batch_norm, MOMENTUM, 0.03, "cosine", steps=600),
        Training(third.prices, networks.tanh, MOMENTUM, 0.01, "constant", steps=600),
        Training(third.credit, third.gated, DECAY, 0.001, "linear", steps=300),
        Training(third.pulses, third.temporal, torch.optim.Adam, 0.003, "cosine", steps=200),
    ),
    "again": (
        Training(sets.rings, networks.leaky, MOMENTUM, 0.03, "cosine", steps=240),
        Training(sets.interactions, networks.dense_skips, DECAY, 0.002, "linear", steps=240),
        Training(sets.arm, networks.smooth, torch.optim.Adam, 0.003, "constant", steps=240),
        Training(sets.blobs, networks.swish, torch.optim.SGD, 0.05, "constant", steps=240),
        Training(sets.tones, networks.layer_norm, DECAY, 0.002, "linear", steps=240),
        Training(sets.waves, networks.funnel, torch.optim.Adam, 0.003, "cosine", steps=240),
        Training(sets.tree, networks.normed, MOMENTUM, 0.02, "cosine", steps=240),
        Training(sets.source, networks.attention, DECAY, 0.003, "linear", steps=160),
    ),
    "followed": (
        Training(fifth.names, fifth.nano, DECAY, 0.003, "cosine", steps=200),
        Training(fifth.tides, fourth.two_gru, torch.optim.Adam, 0.003, "linear", steps=160),
        Training(fifth.echoes, fifth.two_lstm, torch.optim.Adam, 0.005, "cosine", steps=240),
        Training(fifth.houses, fifth.wedge, torch.optim.SGD, 0.03, "constant", steps=500),
        Training(fourth.spirals, fourth.maxout, MOMENTUM, 0.03, "cosine", steps=400),
        Training(fourth.sums, fourth.causal, torch.optim.Adam, 0.003, "linear", steps=200),
        Training(fourth.fabrics, fourth.inception, MOMENTUM, 0.02, "cosine", steps=240),
        Training(fifth.orbits, fifth.mish, torch.optim.Adam, 0.002, "constant", steps=400),
        Training(sets.clothes, fifth.stem, DECAY, 0.003, "linear", steps=200),
        Training(fifth.genes, fifth.slim, DECAY, 0.002, "cosine", steps=500),
        Training(fourth.hearts, fifth.patches, torch.optim.Adam, 0.002, "linear", steps=240),
        Training(fifth.clauses, networks.elman, torch.optim.Adam, 0.003, "constant", steps=240),
    ),
}


@dataclass(frozen=True)
class Followed:
    """An effect, and what came of it.

    Args:
        effect: As the fork tells it.
        differences: Those of the continuations by hand at the end; inf if one diverged.
    """

    effect: Effect
    differences: Sequence[float]

    @property
    def truth(self) -> float:
        """The mean difference."""
        return float(np.mean(self.differences))

    @property
    def covered(self) -> bool:
        """True if the interval holds it; one that diverged must be called so, or worse."""
        if not math.isfinite(self.truth):
            return self.effect.verdict in ("diverged", "worse")
        if self.effect.diverged:
            return False
        return self.effect.estimate.low <= self.truth <= self.effect.estimate.high

    @property
    def exceeds(self) -> bool:
        """True if it exceeds the noise between seeds."""
        if not math.isfinite(self.truth):
            return True
        shown = mean_of_few(self.differences)
        return not shown.low <= 0 <= shown.high

    @property
    def is_decided(self) -> bool:
        """True if the fork calls it better or worse."""
        return self.effect.verdict in ("better", "worse", "diverged")

    @property
    def is_wrong(self) -> bool:
        """True if it is called better, and is worse, or the other way round."""
        return self.is_decided and (self.effect.verdict == "better") != (self.truth < 0)


def network_of(training: Training, data: Data) -> nn.Module:
    """The network at its start."""
    torch.manual_seed(0)
    layers, width = training.network(data, nn.ReLU)
    return nn.Sequential(*layers, nn.Linear(width, data.outputs))


def loss_of(data: Data) -> Callable[[nn.Module, Any], Tensor]:
    """The loss of every example."""

    def loss(model: nn.Module, batch: Any) -> Tensor:
        outputs = model(batch[0])
        if data.kind == "values":
            return functional.mse_loss(outputs, batch[1], reduction="none").mean(1)
        if data.kind == "tokens":
            each = functional.cross_entropy(outputs.transpose(1, 2), batch[1], reduction="none")
            return each.mean(1)
        return functional.cross_entropy(outputs, batch[1], reduction="none")

    return loss


def order_of(data: Data, size: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of shuffled epochs."""
    generator = torch.Generator().manual_seed(seed)
    inputs, targets = data.train
    while True:
        shuffled = torch.randperm(len(inputs), generator=generator)
        for rows in shuffled[: len(inputs) // size * size].split(size):
            yield inputs[rows], targets[rows]


def update(model: nn.Module, optimizer: torch.optim.Optimizer, loss: Any, batch: Any) -> None:
    """One update, as everybody writes it."""
    optimizer.zero_grad()
    loss(model, batch).mean().backward()
    optimizer.step()


def ends(training: Training, data: Data, loop: Loop, factor: float, seed: int) -> dict[str, float]:
    """Where a training ends at this factor on its rate, by hand. A constant rate is cooled over
    the second half, as it is in the branches."""
    model = copy.deepcopy(loop.model)
    optimizer = training.optimizer(model.parameters(), lr=training.rate)
    optimizer.load_state_dict(copy.deepcopy(loop.optimizer.state_dict()))
    loss, left = loss_of(data), training.steps - loop.index
    order = order_of(data, training.batch, 1_000 + seed)
    torch.manual_seed(seed)
    for step in range(left):
        cooled = min(2 * (1 - (step + 0.5) / left), 1.0) if training.schedule == "constant" else 1.0
        for group in optimizer.param_groups:
            group["lr"] = training.rate * factor * cooled * training.factor(loop.index + step)
        update(model, optimizer, loss, next(order))
    # on the examples of the fork: other training examples have another loss, and other effects
    means = {name: readout.mean for name, readout in loop.readouts(model).items()}
    return {
        name: means[name] if math.isfinite(means[name]) else math.inf
        for name in ("test_loss", "train_loss")
    }


def followed(
    training: Training, keep: Path
) -> Iterator[tuple[float, Fork, dict[float, list[dict[str, float]]]]]:
    """The share, the fork, and where the continuations by hand end, by factor of the rate.

    Both are kept in a folder, and are not trained again.
    """
    keep = keep / training.name
    keep.mkdir(parents=True, exist_ok=True)
    data = training.data()
    model, loss = network_of(training, data), loss_of(data)
    optimizer = training.optimizer(model.parameters(), lr=training.rate)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, training.factor)
    order, step = order_of(data, training.batch, 0), 0
    for share in SHARES:
        until = round(share * training.steps)
        for _ in range(until - step):
            update(model, optimizer, loss, next(order))
            scheduler.step()
        step = until
        loop = Loop(
            model,
            optimizer,
            loss=loss,
            batches=data.train,
            batch_size=training.batch,
            evaluate=tuple(rows[:ROWS] for rows in data.evaluation),
            scheduler=scheduler,
            left=f"{training.steps - step} updates",
            index=step,
            readout_examples=ROWS,
        )
        rates = [f"rate {each:g}x" for each in FACTORS if each != 1]
        found = fork(loop, rates, horizon="end", out=keep)
        file = keep / f"{share}.json"
        if not file.exists():
            hand = [
                [ends(training, data, loop, factor, seed) for seed in range(SEEDS)]
                for factor in FACTORS
            ]
            file.write_text(json.dumps(hand))
        yield share, found, dict(zip(FACTORS, json.loads(file.read_text()), strict=True))


def judge(part: str, only: str, keep: Path) -> None:
    """Print every effect, and what all of them are worth."""
    pairs: dict[str, list[Followed]] = {"test_loss": [], "train_loss": []}
    regrets: dict[str, list[float]] = {"test_loss": [], "train_loss": []}
    for training in PARTS[part]:
        if only not in training.name:
            continue
        for share, found, hand in followed(training, keep):
            for readout, known in pairs.items():
                losses = {factor: [end[readout] for end in hand[factor]] for factor in FACTORS}
                expected = {1.0: 0.0}
                for factor, effect in zip((0.5, 2.0, 4.0), found.at_end(readout), strict=True):
                    differences = [
                        one - two for one, two in zip(losses[factor], losses[1.0], strict=True)
                    ]
                    pair = Followed(effect, differences)
                    known.append(pair)
                    expected[factor] = math.inf if effect.diverged else effect.estimate.value
                    marks = f"{'' if pair.covered else 'missed'} {'WRONG' if pair.is_wrong else ''}"
                    print(
                        f"{training.name}  {share:.0%}  {readout}  {effect.alternative}  "
                        f"{effect.verdict} {effect.estimate}, by hand {pair.truth:+.4g} {marks}"
                    )
                means = {factor: float(np.mean(each)) for factor, each in losses.items()}
                picked = min(expected, key=lambda factor: expected[factor])
                regrets[readout].append(means[picked] / min(means.values()) - 1)
                print(f"    picked {picked:g}x, regret {regrets[readout][-1]:.2%}", flush=True)
    for readout, known in pairs.items():
        clear = [pair for pair in known if pair.exceeds]
        shares = (
            ("covered", proportion(sum(pair.covered for pair in known), len(known))),
            ("decided", proportion(sum(pair.is_decided for pair in clear), len(clear))),
        )
        said = ", ".join(f"{name} {share}" for name, share in shares)
        wrong = sum(pair.is_wrong for pair in clear)
        print(
            f"{readout}: {len(known)} effects, {len(clear)} above the noise between seeds: {said}, "
            f"{wrong} of the wrong sign; regret {np.mean(regrets[readout]):.2%}, at most "
            f"{max(regrets[readout]):.2%}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--part", choices=[*PARTS], default="followed")
    parser.add_argument("--only", default="", help="a part of the name of a training")
    parser.add_argument("--keep", type=Path, help="a folder of what was trained already")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        judge(arguments.part, arguments.only, arguments.keep or Path(folder))


if __name__ == "__main__":
    sys.exit(main())
