"""Objective and TrainingStep: correct derivatives for any model and batch, and
training unchanged."""

from collections import namedtuple

import numpy as np
import pytest
import torch
from torch import nn

from conftest import CASES, Case
from gradiometer import BadArgument, Unsupported, UserCodeFailed
from gradiometer.measurement import Draw, Objective, Sampling, TrainingStep, supervised
from gradiometer.measurement.batch import batch_size, chunks, take
from gradiometer.testing import training_state

SAMPLING = Sampling(Draw.REPLACEMENT, 100)


def step_of(case: Case, **changes) -> TrainingStep:
    settings = {"index": 3, "learning_rate": 0.1, "sampling": SAMPLING} | changes
    return TrainingStep(case.objective, case.batch, **settings)


@pytest.mark.parametrize("parts", [2, 3, None])
def test_measuring_leaves_training_unchanged(case: Case, parts: int | None) -> None:
    case.loss(case.model, case.batch).mean().backward()
    before = training_state(case.model)
    step_of(case).spread(parts)
    assert training_state(case.model) == before


def test_gradient_equals_backward(case: Case) -> None:
    if not case.fixed:
        case.model.eval()
    objective = case.objective
    case.loss(case.model, case.batch).mean().backward()
    for ours, parameter in zip(objective.gradient(case.batch), objective.parameters, strict=True):
        torch.testing.assert_close(ours, parameter.grad)


def test_traits_find_whether_a_loss_is_a_fixed_function_of_the_batch(case: Case) -> None:
    assert case.objective.traits(case.batch).fixed == case.fixed


def test_batch_norm_and_dropout_are_fixed_functions_in_eval_mode() -> None:
    case = CASES["cnn_with_batch_norm_and_dropout"]()
    case.model.eval()
    assert case.objective.traits(case.batch).fixed


@pytest.mark.parametrize("name", ["mlp", "frozen_first_layer", "tiny_transformer"])
def test_the_spread_agrees_with_the_gradient_of_each_example(name: str) -> None:
    torch.manual_seed(0)
    case = CASES[name]()
    case.model.double()
    case = Case(case.model, case.loss, _double(case.batch), case.fixed)
    objective = case.objective
    each = [objective.gradient(take(case.batch, torch.tensor([i]))) for i in range(12)]
    spread = step_of(case).spread(None)
    expected = np.zeros((12, len(objective.layers)))
    for i, gradients in enumerate(each):
        for gradient, layer in zip(gradients, objective.layer_of, strict=True):
            expected[i, layer] += gradient.square().sum().item()
    np.testing.assert_allclose(spread.squared_norms, expected, rtol=1e-10, atol=1e-20)


def test_the_half_found_by_subtraction_equals_the_computed_half() -> None:
    torch.manual_seed(0)
    case = CASES["mlp"]()
    case.model.double()
    step = step_of(Case(case.model, case.loss, _double(case.batch), True))
    stolen = step.spread(2)
    parts = torch.randperm(12, generator=step.generator("deal")).tensor_split(2)
    run = step.all_run(parts)
    np.testing.assert_allclose(stolen.squared_norms, run.squared_norms, rtol=1e-10)
    np.testing.assert_allclose(stolen.mean_squared_norm, run.mean_squared_norm, rtol=1e-10)


def test_a_loss_with_dropout_computes_both_halves() -> None:
    torch.manual_seed(0)
    case = CASES["dropout"]()
    step = step_of(case, gradient=[None] * 4)  # subtraction from these zeros would give ĝ = 0
    assert (step.spread(2).mean_squared_norm > 0).all()


def test_shared_parameters_count_once() -> None:
    case = CASES["tiny_transformer"]()
    assert case.objective.dimension == sum(p.numel() for p in case.model.parameters())
    assert (
        len(case.objective.names)
        == len(set(case.objective.names))
        == len(list(case.model.parameters()))
    )


def test_a_parameter_without_an_axis_is_measured_too() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(2.0))

    case = Case(
        Scaled(),
        lambda model, batch: (model.scale * batch).square().mean(1),
        torch.randn(12, 3),
        True,
    )
    assert step_of(case).spread(None).squared_norms.shape == (12, 1)


def test_hooks_on_parameters_do_not_fire() -> None:
    case, fired = CASES["mlp"](), []
    for parameter in case.model.parameters():
        parameter.register_hook(fired.append)
    step_of(case).spread(2)
    assert not fired


def test_take_and_chunks_accept_nested_batches() -> None:
    pair = namedtuple("pair", "x y")
    batch = {
        "a": [torch.arange(5), (torch.arange(10).view(5, 2), None)],
        "p": pair(torch.ones(5), 3),
        "s": torch.tensor(2),
    }
    assert batch_size(batch) == 5
    taken = take(batch, torch.tensor([4, 0]))
    assert (
        taken["a"][0].tolist() == [4, 0] and taken["p"].x.shape == (2,) and taken["s"].item() == 2
    )
    assert [batch_size(part) for part in chunks(batch, 2)] == [2, 3]
    assert torch.cat([part["a"][1][0] for part in chunks(batch, 3)]).equal(batch["a"][1][0])


def test_a_training_step_uses_the_given_gradient() -> None:
    case = CASES["mlp"]()
    given = [torch.full_like(p, 2.0) for p in case.objective.parameters]
    assert step_of(case, gradient=given).gradient[0].unique().item() == 2.0


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (
            lambda: Objective(nn.ReLU(), supervised(nn.MSELoss())),
            Unsupported,
            "`model` has no trainable parameters",
        ),
        (
            lambda: Objective(nn.Linear(2, 1), lambda m, b: m(b)).gradient(torch.ones(4, 2)),
            UserCodeFailed,
            r"`loss` returned shape \[4, 1\]: expected the mean, \[\], or one value per example, \[4\]",
        ),
        (
            lambda: Objective(nn.Linear(2, 1), lambda m, b: m(b).argmax()).gradient(
                torch.ones(4, 2)
            ),
            UserCodeFailed,
            "`loss` returned a tensor of torch.int64",
        ),
        (
            lambda: Objective(nn.Linear(2, 1), lambda m, b: 3.0).gradient(torch.ones(4, 2)),
            UserCodeFailed,
            "`loss` returned float",
        ),
        (
            lambda: Objective(nn.Linear(2, 1), lambda m, b: m(b).detach().mean()).gradient(
                torch.ones(4, 2)
            ),
            UserCodeFailed,
            "does not depend on any trainable parameter",
        ),
        (
            lambda: batch_size((torch.ones(3), torch.ones(4))),
            BadArgument,
            r"`batch\[1\]` holds 4 examples and `batch\[0\]` holds 3",
        ),
        (lambda: batch_size({"x": 1}), BadArgument, "`batch` holds no tensor with a first axis"),
        (
            lambda: step_of(CASES["mlp"]()).spread(1),
            BadArgument,
            "`parts` must be at least 2, and at most the batch size 12, got 1",
        ),
        (
            lambda: step_of(CASES["mlp"]()).spread(13),
            BadArgument,
            "at most the batch size 12, got 13",
        ),
        (lambda: Sampling(Draw.FRESH, 0), BadArgument, "`examples` must be at least 1, got 0"),
    ],
)
def test_a_model_loss_or_batch_that_cannot_be_measured_raises(
    build, error: type, message: str
) -> None:
    with pytest.raises(error, match=message):
        build()


def _double(batch):
    from gradiometer.measurement.batch import mapped

    return mapped(batch, lambda tensor: tensor.double() if tensor.is_floating_point() else tensor)
