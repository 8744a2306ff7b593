"""Eigenvalues, traces and densities of operators whose spectrum is known: right, within what they
say of themselves."""

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from negative_curvature import cases, exact_share
from torch import Tensor

from gradiometer import BadArgument
from gradiometer.drift.curvature import survey
from gradiometer.drift.curvature_survey import SpectralDensity, bounds_below
from gradiometer.drift.lanczos import VectorProduct, eigenvalues
from gradiometer.drift.probes import spectral_density, trace, tridiagonal


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rotated(spectrum: np.ndarray, seed: int = 0) -> tuple[np.ndarray, VectorProduct]:
    """A symmetric matrix of this spectrum in random axes, and its operator."""
    axes = np.linalg.qr(np.random.default_rng(seed).standard_normal((len(spectrum),) * 2))[0]
    matrix = torch.from_numpy(axes * spectrum @ axes.T)
    matrix = (matrix + matrix.T) / 2
    return matrix.numpy(), VectorProduct(
        lambda vectors: vectors @ matrix, torch.zeros(len(spectrum), dtype=torch.float64)
    )


def network_spectrum(size: int = 200) -> np.ndarray:
    """As a network's: a few large curvatures, a bulk near zero, some of it negative."""
    random = np.random.default_rng(1)
    return np.concatenate(
        [np.geomspace(2, 60, 8), random.exponential(0.1, size - 28), -random.exponential(0.1, 20)]
    )


SPECTRA = {
    "even": np.linspace(-1, 3, 60),
    "geometric": np.geomspace(1e-3, 10, 100),
    "network": network_spectrum(),
    "one": np.array([2.5]),
    "rank two": np.concatenate([[5.0, 3.0], np.zeros(30)]),
}


# Eigenvalues


@pytest.mark.parametrize("name", SPECTRA)
def test_every_eigenvalue_lies_within_its_stated_residual(name: str) -> None:
    spectrum = SPECTRA[name]
    top, bottom = min(5, len(spectrum)), min(2, len(spectrum) - min(5, len(spectrum)))
    found = eigenvalues(
        rotated(spectrum)[1], largest=top, smallest=bottom, tolerance=1e-3, generator=generator()
    )
    exact = np.sort(spectrum)
    assert found.converged
    for estimate, value in zip(found.largest, exact[::-1], strict=False):
        assert estimate.low <= value <= estimate.high
        assert estimate.high - estimate.low <= 2.1e-3 * abs(exact).max()
    for estimate, value in zip(found.smallest, exact, strict=False):
        assert estimate.low <= value <= estimate.high


def test_the_stated_residual_is_that_of_the_returned_vectors() -> None:
    matrix, operator = rotated(network_spectrum())
    found = eigenvalues(operator, largest=3, smallest=1, tolerance=1e-2, generator=generator())
    for estimate, vector in zip(
        (*found.largest, *found.smallest), found.vectors.numpy(), strict=True
    ):
        residual = np.linalg.norm(matrix @ vector - estimate.value * vector)
        assert (estimate.high - estimate.low) / 2 == pytest.approx(residual, rel=1e-3, abs=1e-9)
        assert np.linalg.norm(vector) == pytest.approx(1)


def test_bounds_hold_if_the_products_run_out() -> None:
    spectrum = np.linspace(0, 1, 200)
    found = eigenvalues(
        rotated(spectrum)[1], largest=3, tolerance=1e-6, most_products=12, generator=generator()
    )
    assert not found.converged and found.products == 12
    for estimate in found.largest:
        assert np.abs(spectrum - estimate.value).min() <= estimate.high - estimate.value


def test_a_restarted_basis_finds_the_same_eigenvalues(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gradiometer.drift.lanczos.BASIS_NUMBERS", 1)
    spectrum = np.geomspace(1e-3, 10, 200)
    found = eigenvalues(
        rotated(spectrum)[1], largest=4, smallest=1, tolerance=1e-3, generator=generator()
    )
    assert found.converged and len(found.basis) <= 25 < found.products
    for estimate, value in zip(
        (*found.largest, *found.smallest), [*spectrum[:-5:-1], spectrum[0]], strict=True
    ):
        assert estimate.low <= value <= estimate.high


def test_a_warm_start_needs_fewer_products() -> None:
    cold = eigenvalues(rotated(network_spectrum())[1], largest=3, generator=generator())
    warm = eigenvalues(
        rotated(network_spectrum())[1], largest=3, start=cold.vectors, generator=generator(1)
    )
    assert warm.converged and warm.products < 0.6 * cold.products
    assert warm.sharpness.value == pytest.approx(cold.sharpness.value, rel=1e-3)


def test_a_warm_start_that_lacks_the_top_direction_still_finds_it() -> None:
    matrix, operator = rotated(network_spectrum())
    values, axes = np.linalg.eigh(matrix)
    # an exact eigenvector of the bulk: alone it would be the end
    start = torch.from_numpy(axes[:, 3:4].T.copy())
    found = eigenvalues(operator, largest=1, start=start, generator=generator())
    assert found.sharpness.low <= values[-1] <= found.sharpness.high


# Trace


def test_intervals_of_the_trace_cover_at_their_level() -> None:
    _, operator = rotated(network_spectrum())
    top = eigenvalues(operator, largest=8, generator=generator())
    exact = network_spectrum().sum()
    settings = {"even": {}, "deflated": {"ends": top}}
    for name, extra in settings.items():
        draw = generator(5)
        target, source = (
            (SPECTRA["even"].sum(), rotated(SPECTRA["even"])[1])
            if name == "even"
            else (exact, operator)
        )
        estimates = [trace(source, probes=12, generator=draw, **extra) for _ in range(400)]
        covered = np.mean([estimate.low <= target <= estimate.high for estimate in estimates])
        values = np.array([estimate.value for estimate in estimates])
        assert abs(values.mean() - target) < 4 * values.std(ddof=1) / np.sqrt(400), name
        assert 0.87 <= covered <= 0.93, name


def test_a_trace_with_known_large_curvatures_is_more_precise() -> None:
    _, operator = rotated(network_spectrum())
    top = eigenvalues(operator, largest=8, generator=generator())
    plain = trace(operator, probes=24, generator=generator(1))
    deflated = trace(operator, probes=8, ends=top, generator=generator(1))
    assert deflated.high - deflated.low < (plain.high - plain.low) / 5


class MeanOfParts:
    """A matrix that is the mean of others, with unequal shares."""

    def __init__(self, spectra: list[np.ndarray], shares: list[float]) -> None:
        matrices, self.operators = zip(*map(rotated, spectra), strict=True)
        self.shares = shares
        self.matrix = sum(share * matrix for share, matrix in zip(shares, matrices, strict=True))

    @property
    def dimension(self) -> int:
        return len(self.matrix)

    @property
    def like(self) -> Tensor:
        return torch.zeros(self.dimension, dtype=torch.float64)

    def products(self, vectors: Tensor) -> Tensor:
        return vectors @ torch.from_numpy(self.matrix)

    def parts(self) -> Iterator[tuple[float, VectorProduct]]:
        return zip(self.shares, self.operators, strict=True)


@pytest.mark.slow
def test_a_trace_over_parts_covers_and_is_more_precise() -> None:
    spectra = [network_spectrum() * factor for factor in (0.5, 1.0, 2.0, 0.7, 1.2)]
    operator = MeanOfParts(spectra, [0.3, 0.3, 0.1, 0.2, 0.1])
    exact, draw = float(np.trace(operator.matrix)), generator(6)
    top = eigenvalues(operator, largest=4, generator=generator())
    for extra in ({}, {"ends": top}):
        estimates = [trace(operator, probes=12, generator=draw, **extra) for _ in range(400)]
        values = np.array([estimate.value for estimate in estimates])
        assert abs(values.mean() - exact) < 4 * values.std(ddof=1) / np.sqrt(400)
        assert (
            0.87
            <= np.mean([estimate.low <= exact <= estimate.high for estimate in estimates])
            <= 0.93
        )
        assert "of each of 5 parts" in estimates[0].method
        one = VectorProduct(operator.products, operator.like)
        together = np.array(
            [trace(one, probes=12, generator=draw, **extra).value for _ in range(400)]
        )
        assert values.std() < 0.8 * together.std()


# Density


@pytest.mark.parametrize("name", ["even", "network"])
def test_density_is_the_smoothed_histogram(name: str) -> None:
    spectrum = SPECTRA[name]
    density = spectral_density(
        rotated(spectrum)[1], probes=24, iterations=40, generator=generator()
    )
    grid = density.grid
    exact = np.exp(-(((grid[:, None] - spectrum) / density.width) ** 2) / 2).mean(axis=1)
    exact /= density.width * np.sqrt(2 * np.pi)
    value, _, high = density.at(grid)
    error = (high - value) / 1.714  # Student's 95 % quantile with 23 degrees of freedom
    off = np.abs(value - exact) / (error + 1e-3 * exact.max())
    assert off.max() < 4
    assert (
        np.mean((value - exact <= 1.714 * error) & (value - exact >= -1.714 * error - 1e-9)) > 0.7
    )
    assert value.sum() * (grid[1] - grid[0]) == pytest.approx(1, abs=0.01)


def test_share_of_directions_below_zero() -> None:
    density = spectral_density(
        rotated(SPECTRA["even"])[1], probes=32, iterations=60, generator=generator()
    )
    share = density.share_below(0.0)
    assert share.low <= 0.25 <= share.high and share.high - share.low < 0.15


def test_flat_directions_do_not_count_as_negative() -> None:
    """Nine in ten directions are flat: smoothed by the width one in forty of them would lie two
    widths below zero."""
    flat, top = np.zeros(90), np.linspace(2, 10, 10)
    for negative in (0, 8):
        spectrum = np.concatenate([np.full(negative, -2.0), flat[negative:], top])
        density = spectral_density(
            rotated(spectrum)[1], probes=32, iterations=40, generator=generator()
        )
        share = density.share_below(-2 * density.width)
        assert share.low <= negative / 100 <= share.high and share.high < 0.12


def test_the_share_below_zero_is_an_interval_that_holds_where_nothing_is_resolved() -> None:
    """A tenth of the directions curve down, but so little that forty iterations do not separate
    them from the flat."""
    spectrum = np.concatenate(
        [-np.geomspace(1e-5, 1e-3, 30), np.geomspace(1e-5, 1e-3, 260), np.geomspace(1e-3, 9, 10)]
    )
    density = spectral_density(rotated(spectrum)[1], probes=8, iterations=12, generator=generator())
    share = density.share_below(0.0)
    assert share.low <= 0.1 <= share.high and share.high - share.low > 0.2
    assert math.isnan(share.value) and share.method.startswith("not resolved")


def test_one_negative_direction_is_never_a_share_of_zero() -> None:
    spectrum = np.concatenate([[-1.0], np.linspace(0.5, 3, 299)])
    share = spectral_density(
        rotated(spectrum)[1], probes=4, iterations=30, generator=generator()
    ).share_below(0.0)
    assert 0 < 1 / 300 <= share.value and share.low <= 1 / 300 <= share.high < 0.05


def test_no_measure_with_the_same_quadrature_leaves_the_bounds() -> None:
    random = np.random.default_rng(0)
    for _ in range(20):
        points, shares = np.sort(random.normal(size=40)), random.dirichlet(np.ones(40))
        matrix = tridiagonal(
            VectorProduct(
                lambda vectors, points=points: vectors * torch.from_numpy(points),
                like=torch.zeros(40).double(),
            ),
            torch.from_numpy(np.sqrt(shares))[None],
            8,
        )[0]
        nodes, vectors = np.linalg.eigh(matrix)
        low, high = bounds_below(nodes, vectors[0] ** 2, 0.1)
        assert low - 1e-9 <= shares[points < 0.1].sum() <= high + 1e-9 and high - low < 0.5


@pytest.mark.nightly
def test_the_share_of_networks_of_a_thousand_parameters_is_within_its_interval() -> None:
    inside = [
        found.low <= exact_share(curvature)[0] <= found.high
        for _, curvature, step in cases()
        for found in [survey(curvature, of=300, step=step, top=1).negative_share]
    ]
    assert len(inside) == 40 and sum(inside) >= 38


def test_the_quadrature_is_exact_for_moments_of_each_probe() -> None:
    matrix, operator = rotated(SPECTRA["geometric"])
    starts = torch.randn(3, 100, dtype=torch.float64, generator=generator())
    nodes, vectors = np.linalg.eigh(tridiagonal(operator, starts, 6))
    for start, points, weights in zip(starts.numpy(), nodes, vectors[:, 0] ** 2, strict=True):
        unit = start / np.linalg.norm(start)
        for power in range(12):
            exact = unit @ np.linalg.matrix_power(matrix, power) @ unit
            assert weights @ points**power == pytest.approx(exact, rel=1e-8)


def test_density_of_a_hessian_of_low_rank_keeps_its_weights() -> None:
    density = spectral_density(
        rotated(SPECTRA["rank two"])[1], probes=16, iterations=20, generator=generator()
    )
    assert density.weights.sum(axis=1) == pytest.approx(1)
    exact = np.mean(SPECTRA["rank two"] < 1)
    assert density.share_below(1.0).low <= exact <= density.share_below(1.0).high


# Refusals


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: eigenvalues(rotated(SPECTRA["one"])[1], largest=2, generator=generator()),
            "ask for 2 eigenvalues",
        ),
        (
            lambda: eigenvalues(rotated(SPECTRA["one"])[1], largest=0, generator=generator()),
            "must not be negative nor both 0, got 0",
        ),
        (
            lambda: eigenvalues(
                rotated(SPECTRA["one"])[1], tolerance=float("nan"), generator=generator()
            ),
            "`tolerance` must lie between 0 and 1, got nan",
        ),
        (
            lambda: eigenvalues(
                rotated(SPECTRA["even"])[1], largest=5, most_products=3, generator=generator()
            ),
            "`most_products` must be at least the 5",
        ),
        (
            lambda: trace(rotated(SPECTRA["even"])[1], probes=3, generator=generator()),
            "`probes` must be at least 4",
        ),
        (
            lambda: spectral_density(rotated(SPECTRA["even"])[1], probes=1, generator=generator()),
            "`probes` must be",
        ),
        (
            lambda: spectral_density(
                rotated(SPECTRA["even"])[1], iterations=1, generator=generator()
            ),
            "`iterations` must be at least 2",
        ),
        (
            lambda: spectral_density(
                rotated(SPECTRA["even"])[1], width=float("nan"), generator=generator()
            ),
            "`width` must be positive, got nan",
        ),
    ],
)
def test_wrong_arguments_of_operators_are_refused(build, message: str) -> None:
    with pytest.raises(BadArgument, match=message):
        build()


def test_weights_that_do_not_sum_to_one_are_refused() -> None:
    """They would be drawn on an axis without an end."""
    nodes = np.array([[0.0, 1.0], [0.0, 2.0]])
    SpectralDensity(nodes, np.full((2, 2), 0.5), 0.1, 0.9, 4, 2)
    with pytest.raises(ValueError, match="`weights` must sum to 1 over a probe, got one of 1e"):
        SpectralDensity(nodes, np.full((2, 2), 1e308), 0.1, 0.9, 4, 2)
