"""The curvature of a batch along its gradient from slopes is that of a product with the Hessian, and
where it would not be, it is refused."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from gradiometer.drift import BatchSharpness, PreconditionedSharpness
from gradiometer.integrations.gradients import Preconditioner
from gradiometer.measurement import Draw, Objective, Sampling, TrainingStep, step
from gradiometer.measurement.gradient_graph import GradientGraph
from gradiometer.measurement.slopes import own_curvature

Loss = Callable[[nn.Module, tuple[Tensor, Tensor]], Tensor]


def cross_entropy(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="none")


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.GRU(6, 8, batch_first=True), nn.Linear(8, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.as_tensor(self.head(self.layer(inputs)[0][:, -1]))


def normed() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 16), nn.LayerNorm(16), nn.GELU(), nn.Linear(16, 3))


def with_batch_norm() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Linear(16, 3))


def with_dropout() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 16), nn.SiLU(), nn.Dropout(0.3), nn.Linear(16, 3))


def batch_for(model: nn.Module) -> tuple[Tensor, Tensor]:
    shape = (16, 5, 6) if isinstance(model, Recurrent) else (16, 6)
    return torch.randn(shape), torch.randint(3, (16,))


@pytest.mark.parametrize("is_preconditioned", [False, True])
@pytest.mark.parametrize("make", [normed, with_batch_norm, with_dropout, Recurrent])
def test_slopes_give_the_product_with_the_hessian(
    make: Callable[[], nn.Module], is_preconditioned: bool
) -> None:
    torch.manual_seed(0)
    model = make()
    objective, batch = Objective(model, cross_entropy), batch_for(model)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    factors = [torch.rand_like(one) + 0.1 for one in objective.parameters]
    state = torch.get_rng_state()

    graph = GradientGraph(objective, batch, seed=3)
    gradient = graph.gradients
    direction = gradient
    if is_preconditioned:
        direction = [factor * one for factor, one in zip(factors, gradient, strict=True)]
    exact = TrainingStep.product_of(direction, graph.product(direction))
    used = list(factors) if is_preconditioned else None
    found = own_curvature(objective, batch, used, seed=3)

    assert found is not None
    assert found.along == pytest.approx(exact, rel=0.01)
    assert found.product == pytest.approx(TrainingStep.product_of(gradient, direction), rel=1e-5)
    assert used is None or not any(one.numel() for one in used)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(model.state_dict()[name], one) for name, one in before.items())
    assert all(parameter.grad is None for parameter in model.parameters())


def half(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return cross_entropy(model, batch)


@pytest.mark.parametrize(
    ("between", "loss"),
    [
        (nn.ReLU(), cross_entropy),
        (nn.Hardtanh(), cross_entropy),
        (nn.PReLU(), cross_entropy),
        (nn.GELU(), half),
        (nn.Tanh(), lambda model, batch: cross_entropy(model, batch).clamp(max=1.0)),
    ],
)
def test_a_loss_that_bends_or_is_in_half_precision_is_refused(
    between: nn.Module, loss: Loss
) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), between, nn.Linear(16, 3))
    assert own_curvature(Objective(model, loss), batch_for(model)) is None


def test_a_parameter_that_the_loss_does_not_reach_has_no_part() -> None:
    torch.manual_seed(0)
    model = nn.ModuleDict({"used": normed(), "unused": nn.Linear(2, 2)})
    batch = batch_for(model)
    alone = own_curvature(Objective(model["used"], cross_entropy), batch)
    beside = own_curvature(
        Objective(model, lambda model, b: cross_entropy(model["used"], b)), batch
    )
    assert alone is not None and beside is not None
    assert beside.along == pytest.approx(alone.along, rel=0.01)


@pytest.mark.parametrize("gauge", [BatchSharpness(), PreconditionedSharpness()])
@pytest.mark.parametrize("make", [normed, lambda: nn.Sequential(nn.Linear(6, 8), nn.ReLU())])
def test_a_large_model_has_the_reading_of_a_small_one(
    monkeypatch: pytest.MonkeyPatch, gauge: BatchSharpness, make: Callable[[], nn.Module]
) -> None:
    torch.manual_seed(0)
    model = make()
    objective, batch = Objective(model, cross_entropy), batch_for(model)
    reads = []

    def read() -> list[Tensor]:
        reads.append(1)
        return [torch.full_like(one, 0.5) for one in objective.parameters]

    def moments() -> object:
        return gauge.measure(
            TrainingStep(
                objective,
                batch,
                index=0,
                learning_rate=0.1,
                sampling=Sampling(Draw.FRESH),
                preconditioner=Preconditioner(read),
            )
        )

    small = moments()
    monkeypatch.setattr(step, "MOST_FOR_GRAPH", 0)
    assert moments() == pytest.approx(small, rel=0.01)
