"""Samplers keep the temperature in every direction, or raise; the shape of a run is measured;
cycles draw enough."""

import math
import re

import jaxtyping
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gradiometer import BadArgument
from gradiometer.exploration.samplers import SGHMC, SGLD, SGNHT
from gradiometer.measurement import Estimate
from gradiometer_lab.samplers.heat import Heat, Hottest
from gradiometer_lab.samplers.sampler import Sampler
from gradiometer_lab.temperature.equipartition import Equipartition, Shape, Virial

N = 1000
CURVATURES = torch.tensor([1.0, 0.5], dtype=torch.float64)


def turned(angle: float) -> Tensor:
    return torch.tensor(
        [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]],
        dtype=torch.float64,
    )


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the shape checker, which users do not run."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("kind", "rate", "settings"), [(SGLD, 0.4, {}), (SGHMC, 0.25, {"momentum": 0.5, "memory": 200})]
)
def test_the_temperature_is_kept_in_every_direction_of_a_small_group(
    kind: type[Sampler], rate: float, settings: dict[str, float]
) -> None:
    """Noise that heats one direction by 0.6 and the other by 0.006, and is not along the axes of
    the curvature."""
    runs, generator = 12, torch.Generator().manual_seed(0)
    hessian = turned(0.5) @ torch.diag(CURVATURES) @ turned(0.5).T
    noise = turned(1.4) @ torch.diag(torch.tensor([3e-3, 3e-5], dtype=torch.float64).sqrt())
    chains = [nn.Parameter(torch.zeros(2, dtype=torch.float64)) for _ in range(runs)]
    sampler = kind([{"params": [chain]} for chain in chains], rate, examples=N, **settings)
    products = torch.zeros(runs, 2, 2, dtype=torch.float64)
    for step in range(700):
        positions = torch.stack([chain.detach() for chain in chains])
        gradients = (
            positions @ hessian
            + torch.randn(runs, 2, generator=generator, dtype=torch.float64) @ noise.T
        )
        for chain, gradient in zip(chains, gradients, strict=True):
            chain.grad = gradient
        sampler.advance()
        if step >= 200:
            products += positions[:, :, None] * positions[:, None] / 500
    matrices = N * products @ hessian
    error = matrices.std(dim=0) / math.sqrt(runs)
    assert error.max() < 0.08
    assert ((matrices.mean(dim=0) - torch.eye(2)).abs() < 4 * error).all()


def hot_in_one_direction(kind: type[Sampler], size: int, **settings: float) -> None:
    """Noise of the gradient only along the first of many parameters, whose mean over the group is
    small."""
    position, generator = (
        nn.Parameter(torch.zeros(size, dtype=torch.float64)),
        torch.Generator().manual_seed(0),
    )
    sampler = kind([position], 0.2, examples=N, burn_in=600, memory=200, batch_size=8, **settings)

    def gradient(share: float = 1.0) -> Tensor:
        noise = torch.zeros(size, dtype=torch.float64)
        noise[0] = (
            0.07 / math.sqrt(share) * torch.randn((), generator=generator, dtype=torch.float64)
        )
        return position.detach() + noise

    for step in range(1000):
        position.grad = gradient()
        sampler.step()
        if step % 4 == 0:
            sampler.halves([gradient(0.5)], [gradient(0.5)])


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("kind", [SGLD, SGHMC, SGNHT])
def test_a_hot_direction_of_a_large_group_raises_with_the_step_that_would_do(
    kind: type[Sampler],
) -> None:
    with pytest.raises(
        BadArgument,
        match=r"along the hottest direction SGD itself heats to .* Use `lr` below 0\.\d+, a b",
    ):
        hot_in_one_direction(kind, 100)
    hot_in_one_direction(kind, 100, hold=False)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(("kind", "settings"), [(SGLD, {}), (SGHMC, {"momentum": 0.3})])
def test_no_smaller_step_is_needed_if_the_group_is_small(
    kind: type[Sampler], settings: dict[str, float]
) -> None:
    hot_in_one_direction(kind, 50, **settings)


@pytest.mark.usefixtures("unchecked")
def test_the_step_that_would_do_is_small_enough_for_directions_without_noise() -> None:
    """60 of 100 directions are heated to 1, the mean is 0.6, and those without noise are at 0.4."""
    position, generator = (
        nn.Parameter(torch.zeros(100, dtype=torch.float64)),
        torch.Generator().manual_seed(0),
    )
    sampler = SGLD([position], 0.2, examples=N, burn_in=600)
    length = math.sqrt(2 / (N * 0.2)) * (torch.arange(100) < 60)
    with pytest.raises(BadArgument, match=r"Use `lr` below 0\.0167, "):  # 0.2 × 0.05/0.6
        for _ in range(2000):
            position.grad = length * (
                2 * torch.randint(2, (100,), generator=generator).double() - 1
            )
            sampler.step()


def test_noise_by_direction_follows_a_learning_rate_that_falls() -> None:
    """SGD itself heats to 0.8 at η = 0.1, so to 0.08 at η = 0.01: from then on noise of 0.92 is
    injected."""
    squared, chains = 0.016, [nn.Parameter(torch.zeros(1, dtype=torch.float64)) for _ in range(20)]
    sampler = SGLD([{"params": [chain]} for chain in chains], 0.1, examples=N)
    noises = []
    for step in range(140):
        if step == 100:
            for group in sampler.param_groups:
                group["lr"] = 0.01
        before = [chain.item() for chain in chains]
        for chain in chains:
            chain.grad = torch.full_like(chain, math.sqrt(squared))
        sampler.step()
        if step >= 100:
            noises += [
                chain.item() - old + 0.01 * math.sqrt(squared)
                for chain, old in zip(chains, before, strict=True)
            ]
    injected = np.mean(np.square(noises)) * N / (2 * 0.01)
    assert injected == pytest.approx(0.92, abs=4 * 0.92 * math.sqrt(2 / len(noises)))


def steps_with_heat_along_one_direction(heat: float, size: int = 2, memory: int = 20) -> None:
    """Steps with a gradient of alternating sign whose heat along the first parameter is known
    exactly."""
    position = nn.Parameter(torch.zeros(size, dtype=torch.float64))
    sampler = SGLD([position], 0.2, examples=N, burn_in=100, memory=memory)
    length = math.sqrt(2 * heat / (N * 0.2))
    for step in range(200 + memory):
        position.grad = length * (-1) ** step * torch.eye(size, dtype=torch.float64)[0]
        sampler.step()


def test_a_direction_of_a_small_group_is_refused_only_above_the_share_that_the_error_states() -> (
    None
):
    steps_with_heat_along_one_direction(0.89)
    # 0.2 × 0.9/0.91
    with pytest.raises(BadArgument, match=r"above 90% of the temperature.* Use `lr` below 0\.198"):
        steps_with_heat_along_one_direction(0.91)


def test_an_error_about_the_mean_names_a_step_that_does_for_the_hottest_direction() -> None:
    """SGD itself heats one direction to 3, so two to 1.5 in the mean; and one to 120, so 100 to 1.2
    in the mean."""
    # 0.2 × 0.9/3
    with pytest.raises(BadArgument, match=r"finite steps\) heats to 1\.5.* Use `lr` below 0\.06"):
        steps_with_heat_along_one_direction(3.0)
    named = r"finite steps\) heats to 1\.2.* Use `lr` below 8\.42e-05"  # 0.2 × 0.05/(120 − 1.2)
    with pytest.raises(BadArgument, match=named):
        steps_with_heat_along_one_direction(120.0, size=100, memory=1000)


def test_an_error_about_the_mean_names_a_step_that_does_for_directions_without_noise() -> None:
    """60 of 100 directions are heated to 2, the mean is 1.2, by which those without noise would be
    too cold."""
    position, generator = (
        nn.Parameter(torch.zeros(100, dtype=torch.float64)),
        torch.Generator().manual_seed(0),
    )
    sampler = SGLD([position], 0.2, examples=N, burn_in=200)
    length = math.sqrt(2 * 2 / (N * 0.2)) * (torch.arange(100) < 60)
    # 0.2 × 0.05/1.2
    with pytest.raises(
        BadArgument, match=r"finite steps\) heats to 1\.2.* Use `lr` below 0\.00833, "
    ):
        for _ in range(2000):
            position.grad = length * (
                2 * torch.randint(2, (100,), generator=generator).double() - 1
            )
            sampler.step()


def test_a_search_that_starts_with_a_gradient_of_zero_finds_the_hottest_direction() -> None:
    """As that of the first matrix of LoRA, whose second one is zero at the start."""
    hottest = Hottest(search=100, heat=Heat(20))
    for step in range(100):
        hottest.look(torch.tensor([0.0, float(step > 0), 0.0]))
    assert hottest.found and hottest.direction.tolist() == [0, 1, 0]


def test_an_error_about_the_mean_asks_for_no_more_where_the_heat_is_even() -> None:
    """SGD itself heats each of 100 directions to 1.5: two thirds of the step would do."""
    position, generator = (
        nn.Parameter(torch.zeros(100, dtype=torch.float64)),
        torch.Generator().manual_seed(0),
    )
    sampler = SGLD([position], 0.2, examples=N, burn_in=200)
    with pytest.raises(
        BadArgument, match=r"finite steps\) heats to 1\.5.* Use `lr` below 0\.133, "
    ):
        for _ in range(2000):
            signs = 2 * torch.randint(2, (100,), generator=generator).double() - 1
            position.grad = signs * math.sqrt(2 * 1.5 / (N * 0.2))
            sampler.step()


def test_the_step_that_an_error_names_allows_for_its_error() -> None:
    """Heat in one of 5 steps: the first significant reading is uncertain, and so is a step named by
    its value."""
    position = nn.Parameter(torch.zeros(2, dtype=torch.float64))
    sampler = SGLD([position], 0.2, examples=N, burn_in=200, memory=1000)
    generator = torch.Generator().manual_seed(0)
    with pytest.raises(BadArgument) as refusal:
        for _ in range(5_000):
            rare = float(torch.rand((), generator=generator)) < 0.2
            position.grad = torch.tensor(
                [0.0, rare * math.sqrt(2 * 1.8 / 0.2 / (N * 0.2))], dtype=torch.float64
            )
            sampler.step()
    high = sampler.balance[0].hottest.high
    named = re.search(r"`lr` below ([\d.]+),", str(refusal.value))
    assert named is not None and float(named[1]) <= 0.2 * 0.9 / high * 1.005


def shape_of(draws: Tensor, gradients: Tensor) -> Shape:
    sums = Equipartition(torch.eye(draws.shape[1]), draws[0], len(draws))
    for draw, gradient in zip(draws, gradients, strict=True):
        sums.add(draw, gradient)
    return sums.shape(examples=1)


def normal(*size: int) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(3))


def test_a_hot_and_a_cold_direction_are_found_although_the_mean_is_right() -> None:
    axes = turned(0.7).float()
    draws = (normal(3000, 2) * torch.tensor([1.3, 0.7]).sqrt()) @ axes.T
    shape = shape_of(draws + 5, draws)
    assert (
        shape.hottest.low < 1.3 < shape.hottest.high
        and shape.coldest.low < 0.7 < shape.coldest.high
    )
    assert [each.split(" ")[0] for each in shape.differing(1.0)] == ["hottest", "coldest"]


def test_a_law_with_heavy_tails_has_a_hot_tail_at_the_right_mean_temperature() -> None:
    """The force is that of N(0, 1), and the draws are Student's with 9 degrees of freedom, scaled
    to variance 1."""
    generator = np.random.default_rng(0)
    draws = torch.from_numpy(generator.standard_t(9, (4000, 3)) * math.sqrt(7 / 9)).float()
    assert any(each.startswith("tail") for each in shape_of(draws, draws).differing(1.0))


def test_the_exact_law_of_a_loss_that_is_not_quadratic_differs_nowhere() -> None:
    """exp(−Φ⁴/4): Φ² is √(2·χ²) of half a degree of freedom."""
    generator = np.random.default_rng(1)
    fourth = 4 * generator.gamma(0.25, size=(6000, 2))
    draws = torch.from_numpy(fourth**0.25 * generator.choice([-1.0, 1.0], (6000, 2)))
    sums = Equipartition(torch.eye(2, dtype=torch.float64), draws[0], len(draws))
    for draw in draws:
        sums.add(draw, draw**3)
    shape = sums.shape(examples=1)
    assert not shape.differing(1.0) and shape.tail.high - shape.tail.low < 0.3


@pytest.mark.nightly
@pytest.mark.usefixtures("unchecked")
def test_intervals_of_the_shape_contain_the_temperature_of_a_law_that_has_it_everywhere() -> None:
    """The bounds are 2.2 standard errors of a coverage below its level."""
    runs, steps, generator = 1000, 192, torch.Generator().manual_seed(0)
    covered = np.zeros(4)
    for _ in range(runs):
        draws = torch.randn(steps, 3, generator=generator, dtype=torch.float64)
        shape, virial = (
            Equipartition(torch.eye(3).double(), draws[0], steps),
            Virial(draws[0], steps, [1, 2]),
        )
        for draw in draws:
            shape.add(draw, draw)
            virial.add(draw, draw)
        found, tensors = shape.shape(examples=1), virial.by_tensor(examples=1, level=0.9)
        ends = *([each] for each in (found.hottest, found.coldest, found.tail)), tensors
        covered += [all(each.low <= 1 <= each.high for each in together) for together in ends]
    assert (covered / runs > [0.983, 0.983, 0.983, 0.879]).all(), covered / runs


def test_a_tensor_that_differs_is_named() -> None:
    cold = Estimate.interval(0.8, 0.7, 0.9, level=0.99, method="known", samples=9)
    fine = Estimate.interval(1.0, 0.9, 1.1, level=0.99, method="known", samples=9)
    shape = Shape(hottest=fine, coldest=fine, tail=fine, tensors={"weight": cold, "bias": fine})
    assert shape.differing(1.0) == ["tensor weight 0.800 [0.700, 0.900]"] and not shape.differing(
        0.9
    )
