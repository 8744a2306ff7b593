"""Small problems on which the choice of a learning rate was judged: seven lists of eight, six to
judge a version.

All lists have the same eight kinds, with other networks and other data. The inputs of every problem
are multiplied by a scale (0.1, 1 or 16), which moves its best rate by orders of magnitude. Labels
and targets carry noise, or the network is too small for the data, so that the best final loss is
well above zero and differences in percent mean something.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from now_runs import perceptron, teacher
from torch import Tensor, nn
from tuning_data import (
    TEST,
    TRAIN,
    Data,
    Pairs,
    bent,
    blobs,
    categories,
    chain,
    corners,
    dialects,
    digits,
    drawn_classes,
    fashion,
    gratings,
    least_squares,
    mirrored,
    motifs,
    moves,
    nested,
    overlaid,
    pendulums,
    profiles,
    prose,
    shapes,
    spectra,
    spirals,
    split,
    sums,
    surveys,
    tables,
    taught,
    to_itself,
    tones,
    topics,
    walks,
)
from tuning_networks import (
    Letters,
    Losses,
    batch_norm,
    convolved,
    entropy,
    group_norm,
    huber,
    normed_first,
    pooled_stages,
    residual_convolved,
    squared,
    yes_or_no,
)

from gradiometer.problems import Examples

SCALES = (0.1, 1.0, 16.0)


@dataclass(frozen=True)
class Cell:
    """A problem at one input scale.

    Args:
        model: Makes the network of a seed.
        loss: Called as `loss(model, batch)`; one value per example.
        train: The training examples. The final training loss is their mean loss in eval mode.
        test: Examples that are never trained on.
        steps: Updates of the whole training.
        batch: Examples of an update.
    """

    name: str
    model: Callable[[int], nn.Module]
    loss: Callable[[nn.Module, Pairs], Float[Tensor, " examples"]]
    train: Examples
    test: Examples
    steps: int
    batch: int

    def batches(self, seed: int) -> Iterator[Pairs]:
        """Batches in epochs of one random order each, without end."""
        generator = torch.Generator().manual_seed(seed)
        while True:
            order = torch.randperm(len(self.train), generator=generator)
            for chosen in order[: len(order) - len(order) % self.batch].split(self.batch):
                yield self.train.batch(chosen)


@dataclass(frozen=True)
class TuningProblem:
    """Data, a network and how long it is trained.

    Args:
        data: Makes the data at scale 1.
        network: Makes the network, from torch's random state.
        losses: Losses of (outputs, targets), one per example.
        scaled_targets: True if the targets are the inputs, as for an autoencoder.
    """

    data: Callable[[], Data]
    network: Callable[[], nn.Module]
    losses: Losses
    steps: int = 300
    batch: int = 32
    scaled_targets: bool = False

    def cell(self, name: str, scale: float) -> Cell:
        """This problem with its inputs multiplied by the scale."""
        inputs, targets, test_inputs, test_targets = self.data()
        by = scale if self.scaled_targets else 1

        def model(seed: int) -> nn.Module:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                return self.network()

        return Cell(
            f"{name}, inputs x {scale:g}",
            model,
            lambda model, batch: self.losses(model(batch[0]), batch[1]),
            Examples((scale * inputs, by * targets if self.scaled_targets else targets)),
            Examples(
                (scale * test_inputs, by * test_targets if self.scaled_targets else test_targets)
            ),
            self.steps,
            self.batch,
        )


DEVELOPMENT: Mapping[str, TuningProblem] = {
    "logistic regression": TuningProblem(fashion, lambda: perceptron(196, 10), entropy),
    "MLP": TuningProblem(lambda: digits(0.2), lambda: perceptron(64, 32, 10), entropy),
    "deep GELU MLP": TuningProblem(
        lambda: fashion(0.1),
        lambda: perceptron(196, *4 * [32], 10, kind=nn.GELU),
        entropy,
        steps=500,
    ),
    "CNN, BatchNorm": TuningProblem(
        lambda: fashion(0.1), lambda: convolved(batch_norm, (6, 12), stride=2, pooled=True), entropy
    ),
    "CNN, GroupNorm": TuningProblem(
        lambda: digits(0.2), lambda: convolved(group_norm, (8, 12)), entropy
    ),
    "transformer": TuningProblem(
        lambda: chain(16, 12), lambda: Letters(12, 24, 1, 16), entropy, batch=16
    ),
    "autoencoder": TuningProblem(
        lambda: to_itself(digits()),
        lambda: perceptron(64, 24, 6, 24, 64, kind=nn.Tanh),
        squared,
        scaled_targets=True,
    ),
    "quadratic": TuningProblem(
        lambda: least_squares(torch.arange(1, 41) ** -2.0, False, 0.7),
        lambda: nn.Linear(40, 1),
        squared,
    ),
}
"""On these a method may be developed."""

EARLIER: Mapping[str, TuningProblem] = {
    "logistic regression": TuningProblem(drawn_classes, lambda: perceptron(30, 5), entropy),
    "MLP": TuningProblem(taught, lambda: perceptron(16, 40, 40, 1, kind=nn.Tanh), squared),
    "deep GELU MLP": TuningProblem(
        lambda: digits(0.2), lambda: perceptron(64, *4 * [40], 10, kind=nn.GELU), entropy, steps=500
    ),
    "CNN, BatchNorm": TuningProblem(
        lambda: digits(0.2), lambda: residual_convolved(batch_norm, 8, nn.ReLU), entropy
    ),
    "CNN, GroupNorm": TuningProblem(
        lambda: fashion(0.1), lambda: convolved(group_norm, (6, 12), nn.SiLU, stride=2), entropy
    ),
    "transformer": TuningProblem(
        lambda: prose(16), lambda: Letters(27, 16, 2, 16), entropy, batch=16
    ),
    "autoencoder": TuningProblem(
        lambda: to_itself(fashion()),
        lambda: perceptron(196, 32, 8, 32, 196),
        squared,
        scaled_targets=True,
    ),
    "quadratic": TuningProblem(
        lambda: least_squares(torch.logspace(-3, 0.5, 24), True, 0.5),
        lambda: nn.Linear(24, 1),
        squared,
        batch=16,
    ),
}
"""The first version was judged on these. Since then they are for development, too."""

FRESH: Mapping[str, TuningProblem] = {
    "logistic regression": TuningProblem(lambda: digits(0.1), lambda: perceptron(64, 10), entropy),
    "MLP": TuningProblem(
        lambda: fashion(0.2), lambda: perceptron(196, 48, 24, 10, kind=nn.LeakyReLU), entropy
    ),
    "deep GELU MLP": TuningProblem(
        lambda: split(*teacher(TRAIN + TEST, 12)),
        lambda: perceptron(12, *5 * [24], 1, kind=nn.GELU),
        squared,
        steps=500,
    ),
    "CNN, BatchNorm": TuningProblem(
        gratings, lambda: convolved(batch_norm, (8, 16), nn.LeakyReLU), entropy
    ),
    "CNN, GroupNorm": TuningProblem(
        lambda: digits(0.1), lambda: residual_convolved(group_norm, 8, nn.GELU), entropy
    ),
    "transformer": TuningProblem(
        lambda: motifs(18, 10), lambda: Letters(10, 20, 2, 18), entropy, batch=16
    ),
    "autoencoder": TuningProblem(
        lambda: to_itself(bent()),
        lambda: perceptron(24, 16, 4, 16, 24, kind=nn.GELU),
        squared,
        scaled_targets=True,
    ),
    "quadratic": TuningProblem(
        lambda: least_squares(torch.cat([torch.ones(2), torch.logspace(-4, -1, 28)]), False, 0.6),
        lambda: nn.Linear(30, 1),
        squared,
    ),
}
"""The second version was judged on these. Since then they are for development, too."""

NEXT: Mapping[str, TuningProblem] = {
    "logistic regression": TuningProblem(blobs, lambda: perceptron(20, 6), entropy),
    "MLP": TuningProblem(
        gratings, lambda: nn.Sequential(nn.Flatten(), *perceptron(64, 40, 20, 10)), entropy
    ),
    "deep GELU MLP": TuningProblem(
        blobs, lambda: perceptron(20, *6 * [20], 6, kind=nn.GELU), entropy, steps=500
    ),
    "CNN, BatchNorm": TuningProblem(
        lambda: digits(0.15),
        lambda: convolved(batch_norm, (8, 8), nn.GELU, pooled=True),
        entropy,
        batch=16,
    ),
    "CNN, GroupNorm": TuningProblem(
        gratings, lambda: residual_convolved(group_norm, 6, nn.ReLU), entropy
    ),
    "transformer": TuningProblem(
        lambda: sums(14, 7), lambda: Letters(7, 16, 2, 14), entropy, batch=32
    ),
    "autoencoder": TuningProblem(
        lambda: to_itself(gratings()),
        lambda: perceptron(64, 32, 12, 32, 64, kind=nn.SiLU),
        squared,
        scaled_targets=True,
    ),
    "quadratic": TuningProblem(
        lambda: least_squares(torch.logspace(-5, 1, 32), True, 0.4),
        lambda: nn.Linear(32, 1),
        squared,
    ),
}
"""The fourth version was judged on these. Since then they are for development, too."""

UNSEEN: Mapping[str, TuningProblem] = {
    "logistic regression": TuningProblem(tables, lambda: perceptron(24, 4), entropy),
    "MLP": TuningProblem(
        corners,
        lambda: nn.Sequential(nn.Flatten(), *perceptron(64, 32, 32, 10, kind=nn.SiLU)),
        entropy,
    ),
    "deep GELU MLP": TuningProblem(
        tables, lambda: perceptron(24, *5 * [28], 4, kind=nn.GELU), entropy, steps=500
    ),
    "CNN, BatchNorm": TuningProblem(
        corners, lambda: convolved(batch_norm, (8, 16), pooled=True), entropy
    ),
    "CNN, GroupNorm": TuningProblem(
        corners, lambda: residual_convolved(group_norm, 8, nn.SiLU), entropy
    ),
    "transformer": TuningProblem(
        lambda: nested(20), lambda: Letters(7, 20, 1, 20), entropy, batch=16
    ),
    "autoencoder": TuningProblem(
        lambda: to_itself(tones()),
        lambda: perceptron(32, 24, 6, 24, 32),
        squared,
        scaled_targets=True,
    ),
    "quadratic": TuningProblem(
        lambda: least_squares(torch.arange(1, 36) ** -1.5, True, 1.0),
        lambda: nn.Linear(35, 1),
        squared,
        batch=16,
    ),
}
"""The fifth version was judged on these. Since then they are for development, too."""

LAST: Mapping[str, TuningProblem] = {
    "logistic regression": TuningProblem(topics, lambda: perceptron(36, 8), entropy),
    "MLP": TuningProblem(spirals, lambda: perceptron(16, 36, 36, 5, kind=nn.ELU), entropy),
    "deep GELU MLP": TuningProblem(
        topics, lambda: perceptron(36, *4 * [32], 8, kind=nn.GELU), entropy, steps=500
    ),
    "CNN, BatchNorm": TuningProblem(
        shapes, lambda: residual_convolved(batch_norm, 6, nn.GELU), entropy
    ),
    "CNN, GroupNorm": TuningProblem(
        shapes, lambda: convolved(group_norm, (6, 10), nn.ELU, pooled=True), entropy
    ),
    "transformer": TuningProblem(lambda: mirrored(8, 9), lambda: Letters(9, 24, 2, 15), entropy),
    "autoencoder": TuningProblem(
        lambda: to_itself(walks()),
        lambda: perceptron(40, 28, 5, 28, 40, kind=nn.ELU),
        squared,
        scaled_targets=True,
    ),
    "quadratic": TuningProblem(
        lambda: least_squares(
            torch.cat([torch.linspace(3, 5, 4), torch.logspace(-4, -1, 24)]), True, 0.8
        ),
        lambda: nn.Linear(28, 1),
        squared,
        batch=16,
    ),
}
"""The sixth version was judged on these. Since then they are for development, too."""

SEVENTH: Mapping[str, TuningProblem] = {
    "logistic regression": TuningProblem(surveys, lambda: perceptron(40, 6), yes_or_no),
    "MLP": TuningProblem(
        pendulums, lambda: perceptron(6, 56, 28, 4, kind=nn.Mish), huber, batch=16
    ),
    "deep GELU MLP": TuningProblem(
        profiles, lambda: perceptron(56, 44, 36, 32, 28, 24, 10, kind=nn.GELU), entropy, steps=500
    ),
    "CNN, BatchNorm": TuningProblem(
        overlaid, lambda: pooled_stages(batch_norm, (6, 10, 14), 56), entropy
    ),
    "CNN, GroupNorm": TuningProblem(
        moves, lambda: normed_first(group_norm, 10, 9, nn.Mish), entropy
    ),
    "transformer": TuningProblem(
        lambda: dialects(18, 11), lambda: Letters(11, 28, 1, 18), entropy, batch=16
    ),
    "autoencoder": TuningProblem(
        lambda: to_itself(spectra()),
        lambda: perceptron(48, 32, 9, 24, 36, 48, kind=nn.Mish),
        squared,
        scaled_targets=True,
    ),
    "quadratic": TuningProblem(categories, lambda: nn.Linear(48, 1), squared),
}
"""A seventh version is judged on these."""

PROBLEMS: Mapping[str, Mapping[str, TuningProblem]] = {
    "development": DEVELOPMENT,
    "earlier": EARLIER,
    "fresh": FRESH,
    "next": NEXT,
    "unseen": UNSEEN,
    "last": LAST,
    "seventh": SEVENTH,
}
