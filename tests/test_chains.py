"""Independent runs computed together: the same numbers as one after the other, whatever the model."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from gradiometer import BadArgument, Diverged, UserCodeFailed
from gradiometer.exploration.chains import Chains, run_chains
from gradiometer.exploration.chains.stacked import why_not_stacked
from gradiometer.exploration.samplers import SGLD
from gradiometer.measurement import Draw, Order, supervised

EXAMPLES, BATCH, STEPS = 90, 16, 40
CROSS_ENTROPY = supervised(nn.CrossEntropyLoss(reduction="none"))


def data(*shape: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(EXAMPLES, *shape, generator=generator, dtype=torch.float64)
    return inputs, torch.randint(3, (EXAMPLES,), generator=generator)


def mlp() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(8, 6), nn.Tanh(), nn.Sequential(nn.Linear(6, 5, bias=False), nn.GELU()), nn.Linear(5, 3)
    ).double()


def cnn() -> nn.Module:
    return nn.Sequential(nn.Conv1d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(18, 3)).double()


def with_norm() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(8, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3)).double()


def with_dropout() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(8, 6), nn.Dropout(0.5), nn.ReLU(), nn.Linear(6, 3)).double()


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
        optimizer = SGLD(model.parameters(), lr=rate, examples=EXAMPLES, temperature=temperature, seed=chain)
    else:
        optimizer = torch.optim.SGD(model.parameters(), lr=rate, **settings)
    order = Order(draw, EXAMPLES, BATCH, seed=chain)
    for step in range(STEPS):
        chosen = order.batch(step)
        optimizer.zero_grad()
        F.cross_entropy(model(inputs[chosen]), targets[chosen]).backward()
        optimizer.step()
    return model


def together(make: Callable[[], nn.Module], engine: str | None, **settings: object) -> Chains:
    given = {"chains": 3, "steps": STEPS, "batch_size": BATCH, "learning_rate": 0.1, **settings}
    return run_chains(make, CROSS_ENTROPY, data(1, 8), engine=engine, **given)


def same(found: nn.Module, expected: nn.Module) -> bool:
    pairs = zip(found.state_dict().values(), expected.state_dict().values(), strict=True)
    return all(torch.allclose(a, b, rtol=0, atol=1e-9) for a, b in pairs)


ENGINES = [
    (mlp, "stacked"),
    (mlp, "sequential"),
    (cnn, "sequential"),
    (lstm, "sequential"),
]
engines = pytest.mark.parametrize(("make", "engine"), ENGINES)


@engines
def test_chains_with_momentum_and_different_rates_are_the_runs_made_by_hand(
    make: Callable[[], nn.Module], engine: str
) -> None:
    found = together(make, engine, learning_rate=[0.05, 0.1, 0.2], momentum=0.8, weight_decay=0.01)
    assert found.engine == engine
    for chain, rate in enumerate((0.05, 0.1, 0.2)):
        assert same(found.models[chain], by_hand(make, chain, rate, momentum=0.8, weight_decay=0.01))


@engines
def test_chains_at_different_temperatures_are_sgld_made_by_hand(make: Callable[[], nn.Module], engine: str) -> None:
    found = together(make, engine, temperature=[0.0, 0.01, 0.5], learning_rate=0.02)
    for chain, temperature in enumerate((0.0, 0.01, 0.5)):
        assert same(found.models[chain], by_hand(make, chain, 0.02, temperature=temperature))


@pytest.mark.parametrize("engine", ["stacked", "sequential"])
def test_reshuffled_epochs_are_those_of_a_run_with_the_chains_seed(engine: str) -> None:
    found = together(mlp, engine, draw=Draw.RESHUFFLED)
    assert all(same(found.models[chain], by_hand(mlp, chain, 0.1, draw=Draw.RESHUFFLED)) for chain in range(3))


@pytest.mark.parametrize("make", [with_norm, with_dropout])
def test_models_with_batch_norm_or_dropout_run_one_after_the_other(make: Callable[[], nn.Module]) -> None:
    found = together(make, None)
    assert found.engine == "sequential" and set(found.why_not) == {"stacked"}
    alone = together(make, "sequential", chains=1, seeds=[2])
    assert same(found.models[2], alone.models[0])


def test_an_lstm_runs_in_a_loop_and_the_reason_is_kept() -> None:
    inputs, targets = data(1, 8)
    given = {"chains": 2, "steps": 20, "batch_size": BATCH, "learning_rate": 0.1}
    found = run_chains(Recurrent, CROSS_ENTROPY, (inputs.float(), targets), **given)
    assert found.engine == "sequential"
    assert found.why_not == {"stacked": "the model is a Recurrent"}


def test_a_large_network_runs_in_a_loop_unless_the_engine_is_named() -> None:
    def large() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(8, 5000), nn.ReLU(), nn.Linear(5000, 3)).double()

    found, named = together(large, None, steps=2), together(large, "stacked", steps=2)
    assert found.engine == "sequential" and found.why_not["stacked"].startswith("a network of 60,003 parameters")
    assert named.engine == "stacked"
    assert all(same(a, b) for a, b in zip(found.models, named.models, strict=True))
    assert together(mlp, None, steps=2).engine == "stacked"


def penalty_of_parameters(model: nn.Module) -> Tensor:
    return sum((each.square().sum() for each in model.parameters()), torch.zeros(()))


def penalty_of_layers(model: nn.Module) -> Tensor:
    layers = [each for each in model.modules() if isinstance(each, nn.Linear)]
    return sum((each.weight.square().sum() for each in layers), torch.zeros(()))


def penalty_of_one_weight(model: nn.Module) -> Tensor:
    return model.get_submodule("0").weight.square().sum()


@pytest.mark.parametrize("penalty", [penalty_of_parameters, penalty_of_layers, penalty_of_one_weight])
def test_a_loss_with_a_penalty_of_its_own_runs_in_a_loop_and_keeps_it(penalty: Callable[[nn.Module], Tensor]) -> None:
    """A stacked network has no parameters to look at: their sum would be zero, without an error."""
    data = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))

    def loss(model: nn.Module, batch: Tensor) -> Tensor:
        return model(batch).square().mean(dim=1) + penalty(model)

    def make() -> nn.Module:
        return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))

    settings = {"chains": 2, "steps": 30, "batch_size": 8, "learning_rate": 0.05}
    found = run_chains(make, loss, data, **settings, watch={"penalty": lambda model, _: penalty(model)})
    alone = run_chains(make, loss, data, **settings, engine="sequential")
    assert found.engine == "sequential" and "reads" in found.why_not["stacked"]
    for here, there in zip(found.models, alone.models, strict=True):
        for one, other in zip(here.parameters(), there.parameters(), strict=True):
            assert torch.equal(one, other)
    expected = [penalty(model).item() for model in found.models]
    assert found.draws["penalty"][-1].tolist() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("make", "engine"), [*ENGINES, (with_norm, "sequential")])
def test_functions_are_drawn_along_the_run_in_eval_mode(make: Callable[[], nn.Module], engine: str) -> None:
    inputs, targets = data(1, 8)

    def right(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return (model(batch[0]).argmax(1) == batch[1]).double()

    watch = {"loss": CROSS_ENTROPY, "right": right}
    found = together(make, engine, watch=watch, watched=(inputs[:30], targets[:30]), every=20)
    assert found.steps.tolist() == [20, 40]
    for chain, model in enumerate(found.models):
        assert model.training
        model.eval()
        expected = F.cross_entropy(model(inputs[:30]), targets[:30]).item()
        assert found.draws["loss"][-1, chain] == pytest.approx(expected, abs=1e-9)
        assert found.draws["right"][-1, chain] == pytest.approx(right(model, (inputs[:30], targets[:30])).mean().item())


def test_shared_and_frozen_parameters_stay_shared_and_frozen() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)
            self.second.weight, self.head = self.first.weight, nn.Linear(8, 3)
            self.first.bias.requires_grad_(False)

        def forward(self, inputs: Tensor) -> Tensor:
            return self.head(torch.relu(self.second(torch.relu(self.first(inputs.flatten(1))))))

    found = together(lambda: Tied().double(), "sequential")
    for chain, model in enumerate(found.models):
        torch.manual_seed(chain)
        assert model.second.weight is model.first.weight
        assert torch.equal(model.first.bias, Tied().double().first.bias)
        assert same(model, by_hand(lambda: Tied().double(), chain, 0.1))


def test_training_chains_leaves_the_global_random_state_alone() -> None:
    before = torch.get_rng_state()
    together(with_dropout, None)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_layer_without_batched_form_is_named() -> None:
    class Own(nn.Linear):
        pass

    assert why_not_stacked(mlp()) is None
    assert why_not_stacked(cnn()) == "0 is a Conv1d"
    assert why_not_stacked(nn.Sequential(nn.Sequential(Own(2, 2)))) == "0.0 is a Own"
    hooked = nn.Sequential(nn.Linear(2, 2))
    hooked[0].register_forward_hook(lambda *_: None)
    assert why_not_stacked(hooked) == "0 has a hook"
    normed = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(2, 2)))
    assert why_not_stacked(normed) == "0 is a ParametrizedLinear"


def test_a_mean_loss_runs_in_a_loop() -> None:
    loss = supervised(nn.CrossEntropyLoss())
    given = {"chains": 2, "steps": 20, "batch_size": BATCH, "learning_rate": 0.1}
    with pytest.raises(BadArgument, match="`engine` 'stacked' cannot run this model: the loss is a mean"):
        run_chains(mlp, loss, data(1, 8), engine="stacked", **given)
    by_mean = run_chains(mlp, loss, data(1, 8), engine="sequential", **given)
    by_example = run_chains(mlp, CROSS_ENTROPY, data(1, 8), engine="stacked", **given)
    assert all(same(a, b) for a, b in zip(by_mean.models, by_example.models, strict=True))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"chains": 0}, "`chains` must be at least 1, got 0"),
        ({"batch_size": 91}, "`batch_size` must lie between 1 and the 90 training examples, got 91"),
        ({"learning_rate": [0.1, 0.2]}, "`learning_rate` must be one number, or one per chain, 3, got 2"),
        ({"learning_rate": math.nan}, "`learning_rate` must be positive and finite, got nan"),
        ({"temperature": -1.0}, "`temperature` must be at least 0 and finite, got -1.0"),
        ({"temperature": 1.0, "momentum": 0.9}, "`momentum` must be 0 if a temperature is positive"),
        ({"momentum": math.nan}, "`momentum` must be at least 0 and finite, got nan"),
        ({"momentum": 1.0}, r"`momentum` must lie in \[0, 1\), got 1.0"),
        ({"seeds": [1, 2]}, "`seeds` must be one per chain, 3, got 2"),
        ({"draw": Draw.FRESH}, "`draw` must be replacement or reshuffled"),
        ({"engine": "fast"}, "`engine` must be one of stacked, sequential, got 'fast'"),
        ({"every": 0}, "`every` must be at least 1, got 0"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(BadArgument, match=message):
        together(mlp, **{"engine": None, **settings})


def test_a_model_that_is_made_already_is_refused() -> None:
    model = mlp()
    with pytest.raises(BadArgument, match="`model` must make a new model each time"):
        together(lambda: model, None)


def test_chains_that_diverge_are_named_with_their_rates() -> None:
    with pytest.raises(Diverged, match=r"the chains of seeds 1 diverged, at learning rates 1e\+200"):
        together(mlp, "stacked", learning_rate=[0.1, 1e200, 0.1])


def test_a_temperature_below_the_heat_of_sgd_alone_is_refused() -> None:
    with pytest.raises(BadArgument, match=r"`temperature` 1e-06 is too low for `lr` 0\.1: SGD itself .* heats to"):
        together(mlp, "stacked", temperature=[0.0, 1e-6, 0.0], steps=3000)


def test_different_chains_end_at_different_parameters() -> None:
    found = together(mlp, "stacked")
    assert len(found) == 3
    first, second = (np.concatenate([p.detach().numpy().ravel() for p in m.parameters()]) for m in found.models[:2])
    assert np.abs(first - second).min() > 0


@pytest.mark.slow
def test_chains_in_processes_are_those_in_one() -> None:
    given = {"learning_rate": [0.05, 0.1, 0.2], "temperature": [0.0, 0.1, 0.1], "every": 20}
    apart, as_one = together(mlp, "stacked", pool="processes:2", **given), together(mlp, "stacked", **given)
    assert all(same(a, b) for a, b in zip(apart.models, as_one.models, strict=True))
    np.testing.assert_allclose(apart.draws["loss"], as_one.draws["loss"], rtol=1e-9)
    assert apart.engine == "stacked" and apart.steps.tolist() == [20, 40]


@pytest.mark.slow
def test_an_error_in_a_process_is_raised_as_in_one_process() -> None:
    with pytest.raises(Diverged, match="the chains of seeds 2 diverged"):
        together(mlp, "stacked", learning_rate=[0.1, 0.1, 1e200], pool="processes:3")

    def broken(model: nn.Module, batch: object) -> Tensor:
        raise KeyError("no such column")

    with pytest.raises(UserCodeFailed, match=r"KeyError: .no such column"):
        run_chains(mlp, broken, data(1, 8), chains=2, steps=2, batch_size=4, learning_rate=0.1, pool="processes:2")


def test_a_pool_that_is_none_is_refused_by_name() -> None:
    with pytest.raises(BadArgument, match=r"`pool` must be here, processes, .* got 'threads'"):
        together(mlp, None, pool="threads")
