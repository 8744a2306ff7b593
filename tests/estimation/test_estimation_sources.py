"""Where the noise comes from: Dropout against data with every mask written out, layer shares, and
heavy examples."""

import math
from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from conftest import CASES, Case
from gradiometer import Unsupported
from gradiometer.estimation import GradientNoise, HeavyExamples, NoiseSources, squared_norms
from gradiometer.measurement import (
    Batch,
    Draw,
    Objective,
    Reading,
    Sampling,
    Series,
    State,
    TrainingStep,
    supervised,
)
from gradiometer.measurement.batch import batch_size, take
from gradiometer.verdict import say

FRESH = Sampling(Draw.FRESH)
EXAMPLES = torch.tensor([[1.0, 0.2], [-0.5, 1.5], [2.0, -1.0], [0.3, 0.4]], dtype=torch.float64)
TARGETS = torch.tensor([0.7, -1.2, 0.1, 2.0], dtype=torch.float64)
WEIGHTS = torch.tensor([0.4, -0.9], dtype=torch.float64)


def dropped_out() -> Objective:
    """½(w·D(x) − y)² with D keeping each of two features with probability one half, doubled."""
    model = nn.Sequential(nn.Dropout(0.5), nn.Linear(2, 1, bias=False)).double()
    with torch.no_grad():
        model[1].weight.copy_(WEIGHTS[None])

    def loss(module: nn.Module, batch: Batch) -> Tensor:
        features, targets = batch
        return (module(features).squeeze(1) - targets).square() / 2

    return Objective(model, loss)


def by_hand() -> tuple[float, float]:
    """tr Cov over data and masks, and its part over masks alone: four examples, four masks, each as
    likely."""
    gradients = np.zeros((4, 4, 2))
    for (place, x), (row, mask) in product(
        enumerate(EXAMPLES), enumerate(product((0.0, 2.0), repeat=2))
    ):
        kept = x * torch.tensor(mask, dtype=torch.float64)
        gradients[place, row] = ((WEIGHTS @ kept - TARGETS[place]) * kept).numpy()
    whole = gradients.reshape(-1, 2).var(axis=0).sum()
    return float(whole), float(gradients.var(axis=1).sum(axis=1).mean())


def series_of(gauge, objective: Objective, data: Batch, steps: int, size: int) -> Series:
    """Readings of batches drawn with replacement."""
    generator, readings, examples = torch.Generator().manual_seed(0), [], batch_size(data)
    for index in range(steps):
        batch = take(data, torch.randint(examples, (size,), generator=generator))
        step = TrainingStep(objective, batch, index=index, learning_rate=0.1, sampling=FRESH)
        readings.append(Reading(gauge.name, index, size, 0.1, gauge.measure(step)))
    return Series.of(readings, FRESH, objective.layers)


@pytest.mark.slow
def test_the_noise_from_dropout_equals_that_over_all_masks() -> None:
    whole, drawn = by_hand()
    series = series_of(NoiseSources(), dropped_out(), (EXAMPLES, TARGETS), 400, 6)
    for name, truth in (("gradient_variance", whole), ("drawn", drawn)):
        values = series.moments[name].sum(axis=1)
        assert abs(values.mean() - truth) < 4 * values.std() / math.sqrt(len(values)), name
    estimates = NoiseSources().estimate(series)
    assert estimates["drawn_share"].low < drawn / whole < estimates["drawn_share"].high
    assert estimates["noise_of_data"].value == pytest.approx(whole - drawn, rel=0.2)
    # neither part is next to nothing, so that a wrong factor shows
    assert 0.3 < drawn / whole < 0.9


@pytest.mark.parametrize(("drawn", "state"), [(0.7, State.LOOK), (0.3, State.OK)])
def test_the_finding_gives_the_share_of_random_numbers_and_advice_if_it_is_large(
    drawn: float, state: State
) -> None:
    noise = np.random.default_rng(0).gamma(20, 1 / 20, (200, 2, 1))
    readings = [
        Reading(
            "noise_sources",
            step,
            32,
            0.1,
            {"gradient_variance": list(whole), "drawn": list(drawn * part)},
        )
        for step, (whole, part) in enumerate(noise)
    ]
    estimates = NoiseSources().estimate(Series.of(readings, FRESH, ("0",)))
    finding = NoiseSources().judge(estimates)
    assert finding is not None and finding.state is state
    share = estimates["drawn_share"]
    assert share.value == pytest.approx(drawn, abs=0.05)
    assert (
        say(finding).seen.startswith(f"{share.value:.0%} [")
        and "random numbers in the model" in say(finding).seen
    )
    assert ("Less Dropout" in say(finding).advice) == (state is State.LOOK)


def test_a_loss_without_random_numbers_has_only_noise_from_data_at_no_extra_cost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    objective = dropped_out()
    objective.model.eval()
    # calling it would fail
    monkeypatch.setattr("gradiometer.estimation.micro_batches.noise_of_draws", None)
    estimates = NoiseSources().estimate(
        series_of(NoiseSources(), objective, (EXAMPLES, TARGETS), 20, 6)
    )
    assert estimates["drawn_share"].high == estimates["noise_of_draws"].value == 0
    assert estimates["noise_of_data"].value > 0
    assert NoiseSources().judge(estimates) is None


def test_noise_from_random_numbers_is_given_by_layer() -> None:
    torch.manual_seed(0)
    case = CASES["dropout"]()
    case.model[3] = nn.Linear(16, 5)
    estimates = NoiseSources().estimate(
        series_of(NoiseSources(), case.objective, case.batch, 40, 12)
    )
    shares = [estimates[f"drawn_share/{layer}"] for layer in case.objective.layers]
    assert all(0 < share.value < 1 for share in shares)


def test_noise_shares_of_the_layers_sum_to_one(case: Case) -> None:
    series = series_of(GradientNoise(), case.objective, case.batch, 12, 12)
    estimates = GradientNoise().estimate(series)
    shares = [
        estimates[f"noise_share/{layer}"].value for layer in series.layers if len(series.layers) > 1
    ]
    assert sum(shares) == pytest.approx(1 if shares else 0)


@pytest.mark.parametrize("gauge", [NoiseSources(), HeavyExamples()], ids=repr)
def test_measuring_sources_leaves_training_as_it_was(gauge, case: Case) -> None:
    from gradiometer.testing import training_state

    case.loss(case.model, case.batch).mean().backward()
    before = training_state(case.model)
    step = TrainingStep(case.objective, case.batch, index=3, learning_rate=0.1, sampling=FRESH)
    if case.objective.traits(case.batch).coupled and isinstance(gauge, HeavyExamples):
        with pytest.raises(Unsupported, match="they have no separate gradients"):
            gauge.measure(step)
    else:
        gauge.measure(step)
    assert training_state(case.model) == before
    assert eval(repr(gauge)) == gauge


def network(*, inplace: bool = False, tied: bool = False) -> nn.Module:
    """Eight features, five classes; with what would fool a look at inputs and outputs alone."""
    torch.manual_seed(0)
    hidden, again = nn.Linear(8, 8), nn.Linear(8, 8)
    if tied:
        again.weight = hidden.weight
    return nn.Sequential(
        hidden, nn.ReLU(inplace=inplace), again, nn.Tanh(), nn.Linear(8, 5)
    ).double()


def decayed(model: nn.Module, batch: Batch) -> Tensor:
    """With a penalty on the weights in every example's loss."""
    penalty = torch.stack([parameter.square().sum() for parameter in model.parameters()]).sum()
    return supervised(nn.CrossEntropyLoss(reduction="none"))(model, batch) + 0.1 * penalty


class UsedAgain(nn.Module):
    """A layer that is called twice, or once and its weight used once more by hand."""

    def __init__(self, *, called_twice: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.called_twice = nn.Linear(8, 8, dtype=torch.float64), called_twice

    def forward(self, features: Tensor) -> Tensor:
        hidden = self.layer(features)
        again = self.layer(hidden.tanh()) if self.called_twice else features @ self.layer.weight.T
        return hidden[:, :5] + again[:, :5].square()


CROSS_ENTROPY = supervised(nn.CrossEntropyLoss(reduction="none"))
NETWORKS = {
    "plain": (network(), CROSS_ENTROPY),
    "mean loss": (network(), supervised(nn.CrossEntropyLoss())),
    "changed in place": (network(inplace=True), CROSS_ENTROPY),
    "tied weights": (network(tied=True), CROSS_ENTROPY),
    "layer called twice": (UsedAgain(called_twice=True), CROSS_ENTROPY),
    "weight decay": (network(), decayed),
    "weight used again": (UsedAgain(called_twice=False), CROSS_ENTROPY),
    "convolution": (
        nn.Sequential(
            nn.Unflatten(1, (2, 4)), nn.Conv1d(2, 3, 2), nn.Flatten(), nn.Linear(9, 5)
        ).double(),
        CROSS_ENTROPY,
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_squared_norms_equal_those_of_separate_gradients(name: str) -> None:
    objective = Objective(*NETWORKS[name])
    batch = (
        torch.randn(12, 8, dtype=torch.float64, generator=torch.manual_seed(1)),
        torch.arange(12) % 5,
    )
    each = [objective.gradient(take(batch, torch.tensor([place]))) for place in range(12)]
    expected = torch.stack(
        [torch.stack([part.square().sum() for part in parts]).sum() for parts in each]
    )
    torch.testing.assert_close(squared_norms(objective, batch), expected)


def test_an_example_with_a_wrong_label_has_the_largest_norm() -> None:
    model, generator = nn.Linear(4, 2, bias=False).double(), torch.manual_seed(0)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[3.0, 0, 0, 0], [-3.0, 0, 0, 0]]))
    features = torch.randn(50, 4, dtype=torch.float64, generator=generator)
    labels = (features[:, 0] < 0).long()
    wrong = int(features[:, 0].abs().argmax())
    labels[wrong] = 1 - labels[wrong]
    norms = squared_norms(Objective(model, CROSS_ENTROPY), (features, labels))
    assert norms.argmax() == wrong and norms.max() > norms.sum() / 2
