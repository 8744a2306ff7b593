"""Norms of single examples from training's own backward: exact for every rule, checked, and never in training's way."""

from contextlib import nullcontext
from typing import Any, NoReturn

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from conftest import CASES
from gradiometer import Draw, Objective, Sampling, TrainingStep, supervised
from gradiometer.measurement import Batch
from gradiometer.measurement.batch import take
from gradiometer.measurement.spread.example_norms import ExampleNorms
from gradiometer.measurement.spread.hooks import ExampleHooks, reading

EXAMPLES = 6
SUMMED = supervised(lambda output, target: (output.flatten(1) * target).sum(1).tanh())


class Flipped(nn.Module):
    """Runs a recurrence of as many steps as there are examples, with time along the first axis."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, features: Tensor) -> Tensor:
        return self.layer(features.transpose(0, 1)).transpose(0, 1)


class UsedByHand(nn.Module):
    """A layer whose weight is used once more by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, features: Tensor) -> Tensor:
        return self.layer(features) + features @ self.layer.weight


LAYERS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "linear": (nn.Linear(4, 3), (4,)),
    "linear, few positions": (nn.Linear(9, 8), (3, 9)),
    "linear, many positions": (nn.Linear(8, 8, bias=False), (10, 20, 8)),
    "convolution": (nn.Conv2d(3, 4, (3, 2), stride=2, padding=1, dilation=2), (3, 9, 8)),
    "layer norm": (nn.LayerNorm((5, 2)), (3, 5, 2)),
    "rms norm": (nn.RMSNorm(5), (3, 5)),
    "group norm": (nn.GroupNorm(2, 4), (4, 3, 3)),
}


class Operations(TorchDispatchMode):
    """Counts operations of torch."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, operation: Any, types: Any, arguments: Any = (), named: Any = None) -> Any:
        self.count += 1
        return operation(*arguments, **(named or {}))


def extra_operations(layers: int, width: int) -> int:
    """What a reading adds to the operations of a forward and a backward."""
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(width, width) for _ in range(layers))).double()
    objective, counts, batch = Objective(model, SUMMED), [], batch_of((width,), model)
    for reads in (False, True):
        hooks = ExampleHooks(model, objective.parameters)
        with Operations() as operations, reading(hooks) if reads else nullcontext():
            objective.loss(model, batch).mean().backward()
            assert not reads or hooks.take(EXAMPLES) is not None
        counts.append(operations.count)
    return counts[1] - counts[0]


def test_short_layers_are_read_together() -> None:
    added = extra_operations(60, 4) - extra_operations(10, 4)
    assert added <= 50 * 2  # a reference to the input and to the error of each layer


def test_another_linear_layer_without_positions_takes_a_few_operations() -> None:
    added = extra_operations(12, 800) - extra_operations(2, 800)
    assert added <= 10 * 10  # two references, two norms and their squares, a product, two rows, and a type


@pytest.mark.parametrize(
    "limit", ["gradiometer.measurement.spread.rules.SHORT", "gradiometer.measurement.spread.hooks.KEPT"]
)
def test_short_layers_are_read_right_one_by_one_and_a_few_at_a_time(
    limit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limit, 0 if limit.endswith("SHORT") else 100)
    torch.manual_seed(0)
    layers = [nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4, bias=False), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3)]
    model = nn.Sequential(*layers).double()
    model[3].weight.requires_grad_(False)
    compare(model, batch_of((4,), model))


def batch_of(shape: tuple[int, ...], model: nn.Module, *, symbols: int = 0) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    size = (EXAMPLES, *shape)
    inputs = torch.randint(symbols, size, generator=draw) if symbols else torch.randn(size, generator=draw).double()
    output = model(inputs).flatten(1)
    return inputs, torch.randn(output.shape, generator=draw, dtype=torch.float64)


def spread_of(norms: ExampleNorms, objective: Objective, batch: Batch):
    norms.start()
    for parameter in objective.parameters:
        parameter.grad = None
    objective.loss(objective.model, batch).mean().backward()
    return norms.spread(batch, [parameter.grad for parameter in objective.parameters])


def compare(model: nn.Module, batch: Batch) -> None:
    objective = Objective(model, SUMMED)
    spread = spread_of(ExampleNorms(objective), objective, batch)
    assert spread is not None and spread.sizes.tolist() == [1] * EXAMPLES
    for row in range(EXAMPLES):
        alone = objective.gradient(take(batch, torch.tensor([row])))
        expected = np.bincount(objective.layer_of, [part.square().sum().item() for part in alone])
        np.testing.assert_allclose(spread.squared_norms[row], expected, rtol=1e-9)
    whole = np.bincount(objective.layer_of, [part.square().sum().item() for part in objective.gradient(batch)])
    np.testing.assert_allclose(spread.mean_squared_norm, whole, rtol=1e-9)


@pytest.mark.parametrize("name", LAYERS)
def test_every_rule_gives_the_norms_of_the_gradients_of_single_examples(name: str) -> None:
    torch.manual_seed(0)
    layer, shape = LAYERS[name]
    model = nn.Sequential(layer.double())
    if name == "convolution":  # it takes more operations than half of its step; the layers before make up for that
        images = nn.Unflatten(1, shape)
        model, shape = nn.Sequential(nn.Linear(4, 500), nn.Linear(500, 216), images, layer).double(), (4,)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter))
    compare(model, batch_of(shape, model))


def test_an_embedding_sums_the_positions_of_the_same_symbol() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(3, 40, padding_idx=1), nn.Linear(40, 40)).double()
    compare(model, batch_of((7,), model, symbols=3))


@pytest.mark.parametrize("model", [Flipped(), UsedByHand()], ids=["time first", "weight used by hand"])
def test_a_model_that_only_looks_as_if_it_had_rules_is_found_out(model: nn.Module) -> None:
    shape = (EXAMPLES, 4) if isinstance(model, Flipped) else (4,)
    objective = Objective(model.double(), SUMMED)
    norms = ExampleNorms(objective)
    assert norms.possible and spread_of(norms, objective, batch_of(shape, model)) is None
    assert not norms.possible
    norms.start()
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("name", ["tiny_transformer", "cnn_with_batch_norm_and_dropout", "dropout"])
def test_models_without_rules_and_losses_that_are_not_fixed_have_no_such_spread(name: str) -> None:
    torch.manual_seed(0)
    case = CASES[name]()
    norms = ExampleNorms(case.objective)
    assert spread_of(norms, case.objective, case.batch) is None and not norms.possible


def test_convolutions_are_left_out_where_half_a_batch_takes_fewer_operations() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 8, 5)).double()
    objective = Objective(model, SUMMED)
    norms = ExampleNorms(objective)
    assert spread_of(norms, objective, batch_of((1, 12, 12), model)) is None and not norms.possible


def test_reading_the_norms_leaves_the_gradient_as_it_was_bit_for_bit() -> None:
    torch.manual_seed(0)
    case = CASES["mlp"]()
    norms, made = ExampleNorms(case.objective), list[list[bytes]]()
    for _ in range(2):
        spread_of(norms, case.objective, case.batch)
        made.append([parameter.grad.numpy().tobytes() for parameter in case.objective.parameters])
        norms = ExampleNorms(case.objective, wanted=False)
    assert made[0] == made[1]


def test_every_error_of_reading_goes_to_the_shield(monkeypatch: pytest.MonkeyPatch) -> None:
    case = CASES["mlp"]()
    caught = list[BaseException]()

    class Shield:
        def __enter__(self) -> None: ...

        def __exit__(self, kind: object, error: BaseException | None, _: object) -> bool:
            return error is not None and not caught.append(error)

    def failing(*_: object) -> NoReturn:
        raise ZeroDivisionError

    for broken in ("_enter", "_leave", "around"):
        caught.clear()
        with monkeypatch.context() as patch:
            if broken != "around":
                patch.setattr(ExampleHooks, broken, failing)
            norms = ExampleNorms(case.objective, failing if broken == "around" else nullcontext, Shield())
            assert spread_of(norms, case.objective, case.batch) is None and caught


def test_a_step_prefers_what_was_read_and_runs_parts_for_a_preconditioner() -> None:
    torch.manual_seed(0)
    case = CASES["mlp"]()
    known = spread_of(ExampleNorms(case.objective), case.objective, case.batch)
    settings = {
        "index": 0,
        "learning_rate": 0.1,
        "sampling": Sampling(Draw.REPLACEMENT, 100),
        "examples": lambda: known,
    }
    step = TrainingStep(case.objective, case.batch, **settings)
    assert step.spread(2) is known and step.spread(None) is known
    ones = [torch.ones_like(parameter) for parameter in case.objective.parameters]
    under = TrainingStep(case.objective, case.batch, preconditioner=ones, **settings)
    assert len(under.preconditioned_spread(2).sizes) == 2
