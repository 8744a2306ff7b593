"""Hessian products, and what is made of them, on any module: right, and nothing of the model is
changed."""

import warnings

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from conftest import CASES, Case, TinyTransformer
from gradiometer import BadArgument, Unsupported, UserCodeFailed
from gradiometer.drift import Curvature
from gradiometer.drift.curvature import edge_warning
from gradiometer.drift.curvature_survey import SpectralDensity
from gradiometer.measurement import Objective, supervised
from gradiometer.problems import load


def in_double(case: Case) -> tuple[Objective, object]:
    from gradiometer.measurement.batch import mapped

    case.model.double()
    batch = mapped(
        case.batch, lambda tensor: tensor.double() if tensor.is_floating_point() else tensor
    )
    return Objective(case.model, case.loss), batch


def materialised(objective: Objective, batch: object) -> Tensor:
    """The whole Hessian by torch, through a function of its own."""
    parameters = objective.parameters
    sizes = [p.numel() for p in parameters]

    def loss(vector: Tensor) -> Tensor:
        parts = [
            part.view(p.shape) for part, p in zip(vector.split(sizes), parameters, strict=True)
        ]
        return objective.mean_loss(parts, batch)

    from torch.nn.attention import SDPBackend, sdpa_kernel

    with sdpa_kernel(SDPBackend.MATH):
        return torch.autograd.functional.hessian(
            loss,
            torch.cat([p.detach().reshape(-1) for p in parameters]),
            vectorize=objective.dimension > 1000,
        )


# Networks


def test_products_of_a_curvature_are_the_weighted_mean_over_its_parts(case: Case) -> None:
    curvature = Curvature(case.objective, [case.batch, case.batch])
    vector = torch.randn(1, curvature.dimension)
    total = sum(share * part.products(vector) for share, part in curvature.parts())
    torch.testing.assert_close(total, curvature.products(vector))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [name for name in CASES if name not in ("dropout", "weighted_mean")]
)
def test_products_equal_those_of_the_full_hessian(name: str) -> None:
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
        torch.testing.assert_close(
            curvature.products(vector[None])[0], exact @ vector, rtol=1e-8, atol=1e-10
        )
    gradient = torch.cat([part.reshape(-1) for part in objective.gradient(batch)])
    torch.testing.assert_close(curvature.gradient, gradient)
    assert curvature.along_gradient() == pytest.approx(float(gradient @ exact @ gradient))
    found = curvature.eigenvalues(largest=2, smallest=1, tolerance=1e-4)
    values = torch.linalg.eigvalsh(exact).numpy()
    for estimate, value in zip(
        (*found.largest, *found.smallest), [values[-1], values[-2], values[0]], strict=True
    ):
        assert estimate.low <= value <= estimate.high


def test_the_hessian_over_many_examples_is_the_mean_over_parts_kept_or_not() -> None:
    torch.manual_seed(0)
    objective, batch = in_double(CASES["mlp"]())
    exact = materialised(objective, batch)
    vectors = torch.randn(2, objective.dimension, dtype=torch.float64)
    for kept in (0, 5, 100):
        curvature = Curvature.of(objective, batch, at_once=5, kept=kept)
        assert [len(part[0]) for part in curvature.batches] == [
            5,
            5,
            2,
        ] and curvature.examples == 12
        torch.testing.assert_close(curvature.products(vectors), vectors @ exact)
        assert curvature.loss == pytest.approx(
            objective.mean_loss(objective.parameters, batch).item()
        )


def test_dropout_is_drawn_once_for_all_products(case: Case) -> None:
    objective = case.objective
    for kept in (0, 100):
        curvature = Curvature(objective, [case.batch], kept=kept, seed=3)
        u, v = torch.randn(2, objective.dimension)
        forth, back = (curvature.products(a[None])[0] for a in (u, v))
        # symmetric: one and the same H
        assert float(forth @ v) == pytest.approx(float(back @ u), rel=2e-3, abs=1e-4)
        torch.testing.assert_close(curvature.products(u[None])[0], forth)


def test_curvature_leaves_the_model_as_it_was(case: Case) -> None:
    from gradiometer.testing import training_state

    case.loss(case.model, case.batch).mean().backward()
    before = training_state(case.model)
    curvature = Curvature(case.objective, [case.batch])
    curvature.eigenvalues(largest=2, smallest=1, most_products=6)
    curvature.trace(probes=4)
    curvature.density(probes=4, iterations=3)
    assert training_state(case.model) == before


@pytest.mark.parametrize("training", [True, False])
def test_attention_with_the_default_fused_kernel_has_a_second_derivative(training: bool) -> None:
    torch.manual_seed(0)
    model, tokens = TinyTransformer().train(training), torch.randint(17, (4, 9))

    def loss(model: nn.Module, batch: Tensor) -> Tensor:
        return nn.functional.cross_entropy(model(batch[:, :-1]).transpose(1, 2), batch[:, 1:])

    with pytest.raises(RuntimeError, match="not implemented"):  # what everyone else meets
        parameters = list(model.parameters())
        gradient = torch.autograd.grad(loss(model, tokens), parameters, create_graph=True)
        torch.autograd.grad(gradient, parameters, gradient)
    assert Curvature(Objective(model, loss), [tokens]).eigenvalues().converged


@pytest.mark.slow
def test_a_compiled_model_has_the_hessian_of_its_module() -> None:
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
            return self.head(
                checkpoint(self.inner, x, use_reentrant=False) if self.active else self.inner(x)
            )

    batch, criterion = (
        (torch.randn(12, 8), torch.randint(5, (12,))),
        supervised(nn.CrossEntropyLoss()),
    )
    torch.manual_seed(1)
    plain = Curvature(Objective(Checkpointed(False), criterion), [batch])
    torch.manual_seed(1)
    found = Curvature(Objective(Checkpointed(True), criterion), [batch])
    vector = torch.randn(1, plain.dimension)
    torch.testing.assert_close(found.products(vector), plain.products(vector))


def test_products_of_a_recurrent_network_equal_those_of_its_hessian() -> None:
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
    assert [estimate.value for estimate in found.largest] == [0, 0] and curvature.trace(
        probes=4
    ).value == 0
    assert isinstance(curvature.density(probes=4, iterations=3), SpectralDensity)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cnn_with_batch_norm", "tiny_transformer"])
def test_eigenvalues_and_products_equal_those_of_curvlinops(name: str) -> None:
    curvlinops = pytest.importorskip("curvlinops")
    from scipy.sparse.linalg import eigsh

    torch.manual_seed(0)
    case = CASES[name]()
    case.model.eval()
    # theirs errs at LayerNorm's own weights, as finite differences show: torch's vmap
    if name == "tiny_transformer":
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
    np.testing.assert_allclose(
        ours.products(vector[None])[0].numpy(), product, rtol=1e-4, atol=1e-8
    )
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
    ("build", "error", "message"),
    [
        (
            lambda: Curvature(
                Objective(LINEAR, lambda m, b: Once.apply(m(b)).mean()), [POINTS]
            ).eigenvalues(),
            Unsupported,
            "`loss` has no second derivative .*build it from operations that can be differentiated "
            "twice",
        ),
        (
            lambda: Curvature(Objective(LINEAR, lambda m, b: m(b).argmax().float()), [POINTS]),
            UserCodeFailed,
            "`loss` does not depend on any trainable parameter",
        ),
        (
            lambda: Curvature(
                Objective(LINEAR, lambda m, b: (m(b) - m(b).detach()).abs().sqrt().mean()), [POINTS]
            ).eigenvalues(),
            UserCodeFailed,
            "`loss` has a curvature that is not finite",
        ),
        (
            lambda: Curvature(Objective(LINEAR, lambda m, b: m(b).mean()), []),
            BadArgument,
            "`batches` is empty",
        ),
        (
            lambda: Curvature.of(Objective(LINEAR, lambda m, b: m(b).mean()), POINTS, at_once=0),
            BadArgument,
            "`at_once` must be at least 1, got 0",
        ),
    ],
)
def test_a_loss_without_curvature_is_refused_with_a_reason(
    build, error: type, message: str
) -> None:
    with pytest.raises(error, match=message):
        build()


def test_a_gradient_without_the_sharpest_direction_still_finds_it_in_few_products() -> None:
    curvatures = torch.cat(
        [torch.rand(299, generator=torch.Generator().manual_seed(0)), torch.tensor([4.0])]
    )
    model = nn.Linear(300, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(1.0)[0, -1] = 0.0  # at rest along the sharpest direction
    objective = Objective(model, lambda model, batch: (curvatures * model.weight**2).sum() / 2)
    for seed in range(5):
        found = Curvature(objective, [torch.zeros(1, 300)], seed=seed).eigenvalues(1)
        assert found.sharpness.low <= 4.0 <= found.sharpness.high and found.products <= 8


@pytest.mark.parametrize("sharpest", ["in every part", "not in the first part"])
def test_one_part_of_the_examples_finds_the_start_for_the_largest_eigenvalue(sharpest: str) -> None:
    """The result is right if that part has another sharpest direction, too."""
    torch.manual_seed(0)
    model = nn.Linear(30, 1, bias=False).double()
    inputs = torch.randn(80, 30, dtype=torch.float64) * torch.linspace(
        0.1, 1.0, 30, dtype=torch.float64
    )
    inputs[:, 0] *= 40.0  # the sharpest direction
    if sharpest == "not in the first part":
        inputs[:10, 0] = 0.0
    objective = Objective(
        model, lambda model, batch: (model(batch[0]) - batch[1]).square().mean(1) / 2
    )
    batch = inputs, torch.randn(80, 1, dtype=torch.float64)
    exact = float(torch.linalg.eigvalsh(inputs.T @ inputs / 80)[-1])
    found = Curvature.of(objective, batch, at_once=10).eigenvalues(1, tolerance=0.01)
    whole = Curvature.of(objective, batch, at_once=80).eigenvalues(1, tolerance=0.01)
    assert found.converged and found.sharpness.low <= exact <= found.sharpness.high
    if sharpest == "in every part":
        assert found.products < whole.products


def test_far_below_the_edge_a_rough_look_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    curvatures = []
    products = Curvature.products

    def counting(curvature: Curvature, vectors: Tensor) -> Tensor:
        curvatures.append(curvature)
        return products(curvature, vectors)

    monkeypatch.setattr(Curvature, "products", counting)
    torch.manual_seed(0)
    digits = load("digits")
    objective = Objective(digits.model(), digits.loss)
    batch = digits.train.batch(torch.arange(256))
    needed = Curvature.of(objective, batch, seed=0).eigenvalues().products
    curvatures.clear()
    assert edge_warning(objective, batch, learning_rate=0.05) is None
    assert len(curvatures) <= needed / 2
    curvatures.clear()
    assert edge_warning(objective, batch, learning_rate=10.0) is not None
    assert len(curvatures) > needed / 2
