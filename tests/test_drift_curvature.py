"""Hessian products, eigenvalues, traces and densities: right, within what they say of themselves, on any module."""

import warnings
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from conftest import CASES, Case, TinyTransformer
from gradiometer.drift.curvature import Curvature
from gradiometer.drift.density import spectral_density, tridiagonal
from gradiometer.drift.eigenvalues import eigenvalues
from gradiometer.drift.operator import Product
from gradiometer.drift.spectrum import SpectralDensity
from gradiometer.drift.trace import trace
from gradiometer.errors import BadInput
from gradiometer.measurement.objective import Objective, supervised


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rotated(spectrum: np.ndarray, seed: int = 0) -> tuple[np.ndarray, Product]:
    """A symmetric matrix of this spectrum in random axes, and its operator."""
    axes = np.linalg.qr(np.random.default_rng(seed).standard_normal((len(spectrum),) * 2))[0]
    matrix = torch.from_numpy(axes * spectrum @ axes.T)
    matrix = (matrix + matrix.T) / 2
    return matrix.numpy(), Product(lambda vectors: vectors @ matrix, torch.zeros(len(spectrum), dtype=torch.float64))


def network_spectrum(size: int = 200) -> np.ndarray:
    """As a network's: a few large curvatures, a bulk near zero, some of it negative."""
    random = np.random.default_rng(1)
    return np.concatenate([np.geomspace(2, 60, 8), random.exponential(0.1, size - 28), -random.exponential(0.1, 20)])


SPECTRA = {
    "even": np.linspace(-1, 3, 60),
    "geometric": np.geomspace(1e-3, 10, 100),
    "network": network_spectrum(),
    "one": np.array([2.5]),
    "rank two": np.concatenate([[5.0, 3.0], np.zeros(30)]),
}


def in_double(case: Case) -> tuple[Objective, object]:
    from gradiometer.measurement.batch import mapped

    case.model.double()
    batch = mapped(case.batch, lambda tensor: tensor.double() if tensor.is_floating_point() else tensor)
    return Objective(case.model, case.loss), batch


def materialised(objective: Objective, batch: object) -> Tensor:
    """The whole Hessian by torch, through a function of its own."""
    parameters = objective.parameters
    sizes = [p.numel() for p in parameters]

    def loss(vector: Tensor) -> Tensor:
        parts = [part.view(p.shape) for part, p in zip(vector.split(sizes), parameters, strict=True)]
        return objective.mean_loss(parts, batch)

    from torch.nn.attention import SDPBackend, sdpa_kernel

    with sdpa_kernel(SDPBackend.MATH):
        return torch.autograd.functional.hessian(
            loss, torch.cat([p.detach().reshape(-1) for p in parameters]), vectorize=objective.dimension > 1000
        )


# Eigenvalues


@pytest.mark.parametrize("name", SPECTRA)
def test_every_eigenvalue_lies_within_its_stated_residual(name: str) -> None:
    spectrum = SPECTRA[name]
    top, bottom = min(5, len(spectrum)), min(2, len(spectrum) - min(5, len(spectrum)))
    found = eigenvalues(rotated(spectrum)[1], largest=top, smallest=bottom, tolerance=1e-3, generator=generator())
    exact = np.sort(spectrum)
    assert found.converged
    for estimate, value in zip(found.largest, exact[::-1], strict=False):
        assert estimate.low <= value <= estimate.high
        assert estimate.high - estimate.low <= 2.1e-3 * abs(exact).max()
    for estimate, value in zip(found.smallest, exact, strict=False):
        assert estimate.low <= value <= estimate.high


def test_the_residual_stated_is_that_of_the_vectors_given() -> None:
    matrix, operator = rotated(network_spectrum())
    found = eigenvalues(operator, largest=3, smallest=1, tolerance=1e-2, generator=generator())
    for estimate, vector in zip((*found.largest, *found.smallest), found.vectors.numpy(), strict=True):
        residual = np.linalg.norm(matrix @ vector - estimate.value * vector)
        assert (estimate.high - estimate.low) / 2 == pytest.approx(residual, rel=1e-3, abs=1e-9)
        assert np.linalg.norm(vector) == pytest.approx(1)


def test_bounds_stay_honest_where_the_products_run_out() -> None:
    spectrum = np.linspace(0, 1, 200)
    found = eigenvalues(rotated(spectrum)[1], largest=3, tolerance=1e-6, most_products=12, generator=generator())
    assert not found.converged and found.products == 12
    for estimate in found.largest:
        assert np.abs(spectrum - estimate.value).min() <= estimate.high - estimate.value


def test_a_restarted_basis_finds_the_same_eigenvalues(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gradiometer.drift.eigenvalues.BASIS_NUMBERS", 1)
    spectrum = np.geomspace(1e-3, 10, 200)
    found = eigenvalues(rotated(spectrum)[1], largest=4, smallest=1, tolerance=1e-3, generator=generator())
    assert found.converged and len(found.basis) <= 25 < found.products
    for estimate, value in zip((*found.largest, *found.smallest), [*spectrum[:-5:-1], spectrum[0]], strict=True):
        assert estimate.low <= value <= estimate.high


def test_a_warm_start_needs_fewer_products() -> None:
    cold = eigenvalues(rotated(network_spectrum())[1], largest=3, generator=generator())
    warm = eigenvalues(rotated(network_spectrum())[1], largest=3, start=cold.vectors, generator=generator(1))
    assert warm.converged and warm.products < 0.6 * cold.products
    assert warm.sharpness.value == pytest.approx(cold.sharpness.value, rel=1e-3)


def test_a_warm_start_that_lacks_the_top_direction_still_finds_it() -> None:
    matrix, operator = rotated(network_spectrum())
    values, axes = np.linalg.eigh(matrix)
    start = torch.from_numpy(axes[:, 3:4].T.copy())  # an exact eigenvector of the bulk: alone it would be the end
    found = eigenvalues(operator, largest=1, start=start, generator=generator())
    assert found.sharpness.low <= values[-1] <= found.sharpness.high


# Trace


def test_trace_is_covered_as_often_as_it_says() -> None:
    _, operator = rotated(network_spectrum())
    top = eigenvalues(operator, largest=8, generator=generator())
    exact = network_spectrum().sum()
    settings = {"even": {}, "hutch++": {"sketch": 12}, "deflated": {"ends": top}}
    for name, extra in settings.items():
        draw = generator(5)
        target, source = (SPECTRA["even"].sum(), rotated(SPECTRA["even"])[1]) if name == "even" else (exact, operator)
        estimates = [trace(source, probes=12, generator=draw, **extra) for _ in range(400)]
        covered = np.mean([estimate.low <= target <= estimate.high for estimate in estimates])
        values = np.array([estimate.value for estimate in estimates])
        assert abs(values.mean() - target) < 4 * values.std(ddof=1) / np.sqrt(400), name
        assert 0.87 <= covered <= 0.93, name


def test_a_trace_that_knows_the_large_curvatures_is_sharper() -> None:
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

    def parts(self) -> Iterator[tuple[float, Product]]:
        return zip(self.shares, self.operators, strict=True)


def test_a_trace_asked_of_the_parts_is_covered_and_sharper() -> None:
    spectra = [network_spectrum() * factor for factor in (0.5, 1.0, 2.0, 0.7, 1.2)]
    operator = MeanOfParts(spectra, [0.3, 0.3, 0.1, 0.2, 0.1])
    exact, draw = float(np.trace(operator.matrix)), generator(6)
    top = eigenvalues(operator, largest=4, generator=generator())
    for extra in ({}, {"ends": top}):
        estimates = [trace(operator, probes=12, generator=draw, **extra) for _ in range(400)]
        values = np.array([estimate.value for estimate in estimates])
        assert abs(values.mean() - exact) < 4 * values.std(ddof=1) / np.sqrt(400)
        assert 0.87 <= np.mean([estimate.low <= exact <= estimate.high for estimate in estimates]) <= 0.93
        assert "of each of 5 parts" in estimates[0].method
        one = Product(operator.products, operator.like)
        together = np.array([trace(one, probes=12, generator=draw, **extra).value for _ in range(400)])
        assert values.std() < 0.8 * together.std()


def test_the_parts_of_a_curvature_are_a_mean_that_gives_its_products(case: Case) -> None:
    curvature = Curvature(case.objective, [case.batch, case.batch])
    vector = torch.randn(1, curvature.dimension)
    total = sum(share * part.products(vector) for share, part in curvature.parts())
    torch.testing.assert_close(total, curvature.products(vector))


# Density


@pytest.mark.parametrize("name", ["even", "network"])
def test_density_is_the_smoothed_histogram(name: str) -> None:
    spectrum = SPECTRA[name]
    density = spectral_density(rotated(spectrum)[1], probes=24, iterations=40, generator=generator())
    grid = density.grid
    exact = np.exp(-(((grid[:, None] - spectrum) / density.width) ** 2) / 2).mean(axis=1)
    exact /= density.width * np.sqrt(2 * np.pi)
    value, _, high = density.at(grid)
    error = (high - value) / 1.714  # Student's 95 % quantile with 23 degrees of freedom
    off = np.abs(value - exact) / (error + 1e-3 * exact.max())
    assert off.max() < 4
    assert np.mean((value - exact <= 1.714 * error) & (value - exact >= -1.714 * error - 1e-9)) > 0.7
    assert value.sum() * (grid[1] - grid[0]) == pytest.approx(1, abs=0.01)


def test_share_of_directions_below_zero() -> None:
    density = spectral_density(rotated(SPECTRA["even"])[1], probes=32, iterations=60, generator=generator())
    share = density.share_below(0.0)
    assert share.low <= 0.25 <= share.high and share.high - share.low < 0.1


def test_quadrature_is_exact_for_the_moments_of_each_probe() -> None:
    matrix, operator = rotated(SPECTRA["geometric"])
    starts = torch.randn(3, 100, dtype=torch.float64, generator=generator())
    nodes, vectors = np.linalg.eigh(tridiagonal(operator, starts, 6))
    for start, points, weights in zip(starts.numpy(), nodes, vectors[:, 0] ** 2, strict=True):
        unit = start / np.linalg.norm(start)
        for power in range(12):
            exact = unit @ np.linalg.matrix_power(matrix, power) @ unit
            assert weights @ points**power == pytest.approx(exact, rel=1e-8)


def test_density_of_a_hessian_of_low_rank_keeps_its_weights() -> None:
    density = spectral_density(rotated(SPECTRA["rank two"])[1], probes=16, iterations=20, generator=generator())
    assert density.weights.sum(axis=1) == pytest.approx(1)
    exact = np.mean(SPECTRA["rank two"] < 1)
    assert density.share_below(1.0).low <= exact <= density.share_below(1.0).high


# Networks


@pytest.mark.parametrize("name", [name for name in CASES if name not in ("dropout", "weighted_mean")])
def test_products_are_those_of_the_materialised_hessian(name: str) -> None:
    torch.manual_seed(0)
    case = CASES[name]()
    if name == "cnn_with_batch_norm_and_dropout":
        case.model.eval()
    objective, batch = in_double(case)
    chosen = torch.randn(3, objective.dimension, dtype=torch.float64)
    exact = materialised(objective, batch)
    curvature = Curvature(objective, [batch])
    torch.testing.assert_close(curvature.products(chosen), chosen @ exact, rtol=1e-8, atol=1e-10)
    for vector in chosen:  # one at a time takes another way than many together
        torch.testing.assert_close(curvature.products(vector[None])[0], exact @ vector, rtol=1e-8, atol=1e-10)
    gradient = torch.cat([part.reshape(-1) for part in objective.gradient(batch)])
    torch.testing.assert_close(curvature.gradient, gradient)
    assert curvature.along_gradient() == pytest.approx(float(gradient @ exact @ gradient))
    found = curvature.eigenvalues(largest=2, smallest=1, tolerance=1e-4)
    values = torch.linalg.eigvalsh(exact).numpy()
    for estimate, value in zip((*found.largest, *found.smallest), [values[-1], values[-2], values[0]], strict=True):
        assert estimate.low <= value <= estimate.high


def test_the_hessian_over_many_examples_is_the_mean_over_its_parts_kept_or_not() -> None:
    torch.manual_seed(0)
    objective, batch = in_double(CASES["mlp"]())
    exact = materialised(objective, batch)
    vectors = torch.randn(2, objective.dimension, dtype=torch.float64)
    for kept in (0, 5, 100):
        curvature = Curvature.of(objective, batch, at_once=5, kept=kept)
        assert [len(part[0]) for part in curvature.batches] == [5, 5, 2] and curvature.examples == 12
        torch.testing.assert_close(curvature.products(vectors), vectors @ exact)
        assert curvature.loss == pytest.approx(objective.mean_loss(objective.parameters, batch).item())


def test_dropout_is_drawn_once_for_all_products(case: Case) -> None:
    objective = case.objective
    for kept in (0, 100):
        curvature = Curvature(objective, [case.batch], kept=kept, seed=3)
        u, v = torch.randn(2, objective.dimension)
        forth, back = (curvature.products(a[None])[0] for a in (u, v))
        assert float(forth @ v) == pytest.approx(float(back @ u), rel=2e-3, abs=1e-4)  # symmetric: one and the same H
        torch.testing.assert_close(curvature.products(u[None])[0], forth)


def test_curvature_leaves_the_model_as_it_was(case: Case) -> None:
    from test_measurement import everything

    case.loss(case.model, case.batch).mean().backward()
    before = everything(case.model)
    curvature = Curvature(case.objective, [case.batch])
    curvature.eigenvalues(largest=2, smallest=1, most_products=6)
    curvature.trace(probes=4)
    curvature.density(probes=4, iterations=3)
    assert everything(case.model) == before


@pytest.mark.parametrize("training", [True, False])
def test_attention_through_the_default_fused_kernel_has_its_second_derivative(training: bool) -> None:
    torch.manual_seed(0)
    model, tokens = TinyTransformer().train(training), torch.randint(17, (4, 9))

    def loss(model: nn.Module, batch: Tensor) -> Tensor:
        return nn.functional.cross_entropy(model(batch[:, :-1]).transpose(1, 2), batch[:, 1:])

    with pytest.raises(RuntimeError, match="not implemented"):  # what everyone else meets
        parameters = list(model.parameters())
        gradient = torch.autograd.grad(loss(model, tokens), parameters, create_graph=True)
        torch.autograd.grad(gradient, parameters, gradient)
    assert Curvature(Objective(model, loss), [tokens]).eigenvalues().converged


def test_a_compiled_model_is_measured_as_the_module_it_was_made_of() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 5))
    batch, criterion = (torch.randn(12, 8), torch.randint(5, (12,))), nn.CrossEntropyLoss()
    plain = Curvature(Objective(model, supervised(criterion)), [batch])
    vector = torch.randn(1, plain.dimension)
    compiled = torch.compile(model, backend="aot_eager")
    with warnings.catch_warnings(action="ignore"):  # torch's own, of its compiler
        compiled(batch[0])
        found = Curvature(Objective(compiled, supervised(criterion)), [batch]).products(vector)
    torch.testing.assert_close(found, plain.products(vector))


def test_a_checkpointed_module_has_the_same_hessian() -> None:
    from torch.utils.checkpoint import checkpoint

    torch.manual_seed(0)
    inner = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 8), nn.Tanh())

    class Checkpointed(nn.Module):
        def __init__(self, active: bool) -> None:
            super().__init__()
            self.inner, self.head, self.active = inner, nn.Linear(8, 5), active

        def forward(self, x: Tensor) -> Tensor:
            return self.head(checkpoint(self.inner, x, use_reentrant=False) if self.active else self.inner(x))

    batch, criterion = (torch.randn(12, 8), torch.randint(5, (12,))), supervised(nn.CrossEntropyLoss())
    torch.manual_seed(1)
    plain = Curvature(Objective(Checkpointed(False), criterion), [batch])
    torch.manual_seed(1)
    found = Curvature(Objective(Checkpointed(True), criterion), [batch])
    vector = torch.randn(1, plain.dimension)
    torch.testing.assert_close(found.products(vector), plain.products(vector))


def test_a_recurrent_network_has_its_hessian() -> None:
    torch.manual_seed(0)

    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm, self.head = nn.LSTM(4, 6, batch_first=True), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.lstm(x)[0][:, -1])

    objective = Objective(Recurrent().double(), supervised(nn.CrossEntropyLoss()))
    batch = (torch.randn(6, 5, 4, dtype=torch.float64), torch.randint(3, (6,)))
    vector = torch.randn(1, objective.dimension, dtype=torch.float64)
    exact = materialised(objective, batch)
    torch.testing.assert_close(Curvature(objective, [batch]).products(vector), vector @ exact)


def test_a_loss_linear_in_the_parameters_has_no_curvature() -> None:
    objective = Objective(nn.Linear(3, 1), lambda model, batch: model(batch).mean())
    curvature = Curvature(objective, [torch.randn(4, 3)])
    found = curvature.eigenvalues(largest=2)
    assert [estimate.value for estimate in found.largest] == [0, 0] and curvature.trace(probes=4).value == 0
    assert isinstance(curvature.density(probes=4, iterations=3), SpectralDensity)


@pytest.mark.parametrize("name", ["cnn_with_batch_norm", "tiny_transformer"])
def test_eigenvalues_and_trace_are_those_of_curvlinops(name: str) -> None:
    curvlinops = pytest.importorskip("curvlinops")
    from scipy.sparse.linalg import eigsh

    torch.manual_seed(0)
    case = CASES[name]()
    case.model.eval()
    if name == "tiny_transformer":  # theirs errs at LayerNorm's own weights, as finite differences show: torch's vmap
        case.model.block.norm1.requires_grad_(False)
        case.model.block.norm2.requires_grad_(False)
    objective, batch = in_double(case)
    tokens = batch["tokens"] if name == "tiny_transformer" else None
    inputs, targets = (tokens[:, :-1], tokens[:, 1:]) if tokens is not None else batch

    class Flattened(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = case.model

        def forward(self, x: Tensor) -> Tensor:
            out = self.model(x)
            return out.flatten(0, 1) if out.dim() == 3 else out

    from torch.nn.attention import SDPBackend, sdpa_kernel

    with sdpa_kernel(SDPBackend.MATH), warnings.catch_warnings(action="ignore"):
        theirs = curvlinops.HessianLinearOperator(
            Flattened(),
            nn.CrossEntropyLoss(),
            objective.parameters,
            [(inputs, targets.flatten())],
            check_deterministic=False,
            batch_size_fn=len,
        )
        scipy_operator = theirs.to_scipy()
        top = eigsh(scipy_operator, k=3, which="LA", tol=1e-7, return_eigenvectors=False)[::-1]
        bottom = eigsh(scipy_operator, k=1, which="SA", tol=1e-7, return_eigenvectors=False)
        vector = torch.randn(objective.dimension, dtype=torch.float64)
        product = scipy_operator @ vector.numpy()
    ours = Curvature(objective, [batch])
    np.testing.assert_allclose(ours.products(vector[None])[0].numpy(), product, rtol=1e-4, atol=1e-8)
    found = ours.eigenvalues(largest=3, smallest=1, tolerance=1e-5)
    np.testing.assert_allclose([e.value for e in found.largest], top, rtol=1e-4)
    np.testing.assert_allclose([e.value for e in found.smallest], bottom, rtol=1e-4)


# Refusals


class Once(torch.autograd.Function):
    """A square that forbids a second derivative."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**2

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: object, upstream: Tensor) -> Tensor:
        return 2 * ctx.saved_tensors[0] * upstream


LINEAR, POINTS = nn.Linear(2, 1), torch.ones(4, 2)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: Curvature(Objective(LINEAR, lambda m, b: Once.apply(m(b)).mean()), [POINTS]).eigenvalues(),
            "`loss` has no second derivative .*compute it by operations that can be differentiated twice",
        ),
        (
            lambda: Curvature(Objective(LINEAR, lambda m, b: m(b).argmax().float()), [POINTS]),
            "`loss` does not depend on any trainable parameter",
        ),
        (
            lambda: Curvature(
                Objective(LINEAR, lambda m, b: (m(b) - m(b).detach()).abs().sqrt().mean()), [POINTS]
            ).eigenvalues(),
            "`loss` has a curvature that is not finite",
        ),
        (lambda: Curvature(Objective(LINEAR, lambda m, b: m(b).mean()), []), "`batches` is empty"),
        (
            lambda: Curvature.of(Objective(LINEAR, lambda m, b: m(b).mean()), POINTS, at_once=0),
            "`at_once` must be at least 1, got 0",
        ),
        (lambda: eigenvalues(rotated(SPECTRA["one"])[1], largest=2, generator=generator()), "ask for 2 eigenvalues"),
        (lambda: eigenvalues(rotated(SPECTRA["one"])[1], largest=0, generator=generator()), "one at least 1, got 0"),
        (
            lambda: eigenvalues(rotated(SPECTRA["one"])[1], tolerance=float("nan"), generator=generator()),
            "`tolerance` must lie between 0 and 1, got nan",
        ),
        (
            lambda: eigenvalues(rotated(SPECTRA["even"])[1], largest=5, most_products=3, generator=generator()),
            "`most_products` must be at least the 5",
        ),
        (lambda: trace(rotated(SPECTRA["even"])[1], probes=3, generator=generator()), "`probes` must be at least 4"),
        (lambda: trace(rotated(SPECTRA["even"])[1], sketch=61, generator=generator()), "`sketch` must lie between"),
        (lambda: spectral_density(rotated(SPECTRA["even"])[1], probes=1, generator=generator()), "`probes` must be"),
        (
            lambda: spectral_density(rotated(SPECTRA["even"])[1], iterations=1, generator=generator()),
            "`iterations` must be at least 2",
        ),
        (
            lambda: spectral_density(rotated(SPECTRA["even"])[1], width=float("nan"), generator=generator()),
            "`width` must be positive, got nan",
        ),
    ],
)
def test_what_has_no_curvature_is_refused_by_name(build, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        build()
