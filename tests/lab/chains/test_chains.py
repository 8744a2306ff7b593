"""Independent runs computed together: the same numbers as one after the other,
whatever the model."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from gradiometer import BadArgument
from gradiometer.exploration.samplers import SGLD
from gradiometer.measurement import Draw, Objective, Order, supervised
from gradiometer.measurement.batch import take
from gradiometer.measurement.objective import Loss
from gradiometer_lab.chains.engines import (
    ChainState,
    Engine,
    Sequential,
    Stacked,
    faster_engine,
    is_stackable,
    make_models,
)

EXAMPLES, BATCH, STEPS = 90, 16, 40
CROSS_ENTROPY = supervised(nn.CrossEntropyLoss(reduction="none"))


def data(*shape: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(EXAMPLES, *shape, generator=generator, dtype=torch.float64)
    return inputs, torch.randint(3, (EXAMPLES,), generator=generator)


def mlp() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(8, 6),
        nn.Tanh(),
        nn.Sequential(nn.Linear(6, 5, bias=False), nn.GELU()),
        nn.Linear(5, 3),
    ).double()


def cnn() -> nn.Module:
    return nn.Sequential(nn.Conv1d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(18, 3)).double()


def with_norm() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(8, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3)
    ).double()


def with_dropout() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(8, 6), nn.Dropout(0.5), nn.ReLU(), nn.Linear(6, 3)
    ).double()


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(1, 4, batch_first=True), nn.Linear(4, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.lstm(inputs.transpose(1, 2))[0][:, -1])


def lstm() -> nn.Module:
    return Recurrent().double()


def by_hand(
    make: Callable[[], nn.Module],
    chain: int,
    rate: float,
    *,
    temperature: float = 0.0,
    draw: Draw = Draw.REPLACEMENT,
    **settings: float,
) -> nn.Module:
    """One run in plain torch, with its SGD or our SGLD."""
    torch.manual_seed(chain)
    model, (inputs, targets) = make(), data(1, 8)
    if temperature:
        optimizer = SGLD(
            model.parameters(), lr=rate, examples=EXAMPLES, temperature=temperature, seed=chain
        )
    else:
        optimizer = torch.optim.SGD(model.parameters(), lr=rate, **settings)
    order = Order(draw, EXAMPLES, BATCH, seed=chain)
    for step in range(STEPS):
        chosen = order.batch(step)
        optimizer.zero_grad()
        F.cross_entropy(model(inputs[chosen]), targets[chosen]).backward()
        optimizer.step()
    return model


def engine_of(
    kind: type[Engine], make: Callable[[], nn.Module], loss: Loss = CROSS_ENTROPY, **settings: Any
) -> Engine:
    """Three chains of SGLD, at different temperatures unless `settings` say more."""
    models = make_models(make, range(3))
    temperatures = settings.pop("temperatures", (0.0, 0.01, 0.5))
    samplers = [
        SGLD(
            model.parameters(),
            lr=settings.get("lr", 0.02),
            examples=EXAMPLES,
            temperature=temperature,
            seed=seed,
        )
        for seed, (model, temperature) in enumerate(zip(models, temperatures, strict=True))
    ]
    state, batch_at = ChainState(models, range(3), samplers), partial(take, data(1, 8))
    example = batch_at(torch.arange(BATCH))
    traits = Objective(models[0], loss).traits(example)
    if kind is Engine:
        return faster_engine(state, loss, batch_at, example, traits)
    return kind(state, loss, batch_at, traits)


def run(engine: Engine, draw: Draw = Draw.REPLACEMENT, steps: int = STEPS) -> list[nn.Module]:
    """The models after some steps."""
    orders = [Order(draw, EXAMPLES, BATCH, seed=chain) for chain in range(3)]
    for step in range(steps):
        engine.step(torch.stack([order.batch(step) for order in orders]))
    return list(engine.state.models)


def same(found: nn.Module, expected: nn.Module) -> bool:
    pairs = zip(found.state_dict().values(), expected.state_dict().values(), strict=True)
    return all(torch.allclose(a, b, rtol=0, atol=1e-9) for a, b in pairs)


engines = pytest.mark.parametrize(
    ("make", "kind"), [(mlp, Stacked), (mlp, Sequential), (cnn, Sequential), (lstm, Sequential)]
)


@engines
def test_chains_at_different_temperatures_are_sgld_made_by_hand(
    make: Callable[[], nn.Module], kind: type[Engine]
) -> None:
    models = run(engine_of(kind, make))
    for chain, temperature in enumerate((0.0, 0.01, 0.5)):
        assert same(models[chain], by_hand(make, chain, 0.02, temperature=temperature))


@pytest.mark.parametrize("kind", [Stacked, Sequential])
def test_reshuffled_epochs_are_those_of_a_run_with_the_chains_seed(kind: type[Engine]) -> None:
    models = run(engine_of(kind, mlp, temperatures=(0.0, 0.0, 0.0)), Draw.RESHUFFLED)
    assert all(
        same(models[chain], by_hand(mlp, chain, 0.02, draw=Draw.RESHUFFLED)) for chain in range(3)
    )


@pytest.mark.parametrize("make", [with_norm, with_dropout, cnn, lstm])
def test_models_without_a_batched_form_run_one_after_the_other(
    make: Callable[[], nn.Module],
) -> None:
    assert isinstance(engine_of(Engine, make), Sequential)
    assert isinstance(engine_of(Engine, mlp), Stacked)


def test_a_large_network_runs_one_after_the_other() -> None:
    def large() -> nn.Module:
        return nn.Sequential(
            nn.Flatten(), nn.Linear(8, 5000), nn.ReLU(), nn.Linear(5000, 3)
        ).double()

    found = engine_of(Engine, large)
    assert isinstance(found, Sequential)
    stacked = engine_of(Stacked, large)
    assert all(same(*pair) for pair in zip(run(found, steps=2), run(stacked, steps=2), strict=True))


def penalty_of_parameters(model: nn.Module) -> Tensor:
    return sum((each.square().sum() for each in model.parameters()), torch.zeros(()))


def penalty_of_layers(model: nn.Module) -> Tensor:
    layers = [each for each in model.modules() if isinstance(each, nn.Linear)]
    return sum((each.weight.square().sum() for each in layers), torch.zeros(()))


def penalty_of_one_weight(model: nn.Module) -> Tensor:
    return model.get_submodule("1").weight.square().sum()


@pytest.mark.parametrize(
    "penalty", [penalty_of_parameters, penalty_of_layers, penalty_of_one_weight]
)
def test_a_loss_with_a_penalty_of_its_own_runs_one_after_the_other(
    penalty: Callable[[nn.Module], Tensor],
) -> None:
    """A stacked network has no parameters to look at: their sum would be zero, without an error."""

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return CROSS_ENTROPY(model, batch) + penalty(model)

    def make() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(8, 4), nn.Tanh(), nn.Linear(4, 3)).double()

    assert isinstance(engine_of(Engine, make), Stacked)
    assert isinstance(engine_of(Engine, make, loss), Sequential)


def test_shared_and_frozen_parameters_stay_shared_and_frozen() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)
            self.second.weight, self.head = self.first.weight, nn.Linear(8, 3)
            self.first.bias.requires_grad_(False)

        def forward(self, inputs: Tensor) -> Tensor:
            return self.head(torch.relu(self.second(torch.relu(self.first(inputs.flatten(1))))))

    models = run(engine_of(Sequential, lambda: Tied().double(), temperatures=(0.0, 0.0, 0.0)))
    for chain, model in enumerate(models):
        torch.manual_seed(chain)
        assert model.second.weight is model.first.weight
        assert torch.equal(model.first.bias, Tied().double().first.bias)
        assert same(model, by_hand(lambda: Tied().double(), chain, 0.02))


def test_running_chains_leaves_the_global_random_state_alone() -> None:
    before = torch.get_rng_state()
    run(engine_of(Engine, with_dropout), steps=3)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_layer_without_batched_form_is_seen() -> None:
    class Own(nn.Linear):
        pass

    hooked = nn.Sequential(nn.Linear(2, 2))
    hooked[0].register_forward_hook(lambda *_: None)
    assert is_stackable(mlp())
    assert not is_stackable(cnn())
    assert not is_stackable(nn.Sequential(nn.Sequential(Own(2, 2))))
    assert not is_stackable(hooked)
    assert not is_stackable(nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(2, 2))))


def test_a_mean_loss_runs_one_after_the_other() -> None:
    by_mean = engine_of(Engine, mlp, supervised(nn.CrossEntropyLoss()))
    assert isinstance(by_mean, Sequential)
    assert all(same(*pair) for pair in zip(run(by_mean), run(engine_of(Stacked, mlp)), strict=True))


def test_a_model_that_is_made_already_is_refused() -> None:
    model = mlp()
    with pytest.raises(BadArgument, match="`model` must make a new model each time"):
        make_models(lambda: model, range(3))


def test_different_chains_end_at_different_parameters() -> None:
    first, second, _ = run(engine_of(Stacked, mlp))
    assert all(
        not torch.equal(*pair) for pair in zip(first.parameters(), second.parameters(), strict=True)
    )
