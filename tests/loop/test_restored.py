"""What measuring restores: the states of all random generators, and the tensors of the model."""

import random
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gradiometer import Objective
from gradiometer.measurement.objective import Loss


def drawing_from_numpy(model: nn.Module, batch: Tensor) -> Tensor:
    return (model(batch) + np.random.normal()).square().mean(1)  # noqa: NPY002


def drawing_from_python(model: nn.Module, batch: Tensor) -> Tensor:
    return (model(batch) + random.gauss(0, 1)).square().mean(1)


def drawing_for_nothing(model: nn.Module, batch: Tensor) -> Tensor:
    return model(batch).square().mean(1) + 0 * random.random()


@pytest.mark.parametrize(
    ("loss", "drawn"),
    [(drawing_from_numpy, True), (drawing_from_python, True), (drawing_for_nothing, False)],
)
def test_a_loss_that_draws_from_a_global_generator_is_random(loss: Loss, drawn: bool) -> None:
    traits = Objective(nn.Linear(3, 2), loss).traits(torch.randn(8, 3))
    assert traits.random == drawn and not traits.coupled


@pytest.mark.parametrize("put_aside", [0, 1])
@pytest.mark.parametrize("inside", [0, 1, 2])
def test_the_random_state_of_numpy_is_restored(put_aside: int, inside: int) -> None:
    np.random.seed(3)  # noqa: NPY002
    objective = Objective(nn.Linear(1, 1), drawing_for_nothing)
    for _ in range(3):  # the same state is saved several times
        np.random.normal(size=put_aside)  # noqa: NPY002
        before = np.random.get_state()  # noqa: NPY002
        with objective.untouched_randomness(5):
            drawn = np.random.normal(size=inside)  # noqa: NPY002
        with objective.untouched_randomness(5):
            again = np.random.normal(size=inside)  # noqa: NPY002
        after = np.random.get_state()  # noqa: NPY002
        assert (
            (drawn == again).all() and str(before) == str(after) and (before[1] == after[1]).all()
        )


def test_a_normal_number_that_numpy_has_put_aside_comes_back_with_an_older_state() -> None:
    objective = Objective(nn.Linear(1, 1), drawing_for_nothing)
    np.random.seed(3)  # noqa: NPY002
    np.random.normal()  # noqa: NPY002
    older = np.random.get_state()  # noqa: NPY002
    expected = np.random.normal()  # noqa: NPY002 (the number put aside: the words of the state stay the same)
    with objective.untouched_randomness(5):
        pass
    np.random.set_state(older)  # noqa: NPY002
    with objective.untouched_randomness(5):
        pass
    assert np.random.normal() == expected  # noqa: NPY002


@pytest.mark.parametrize("kind", [np.random.MT19937, np.random.PCG64])
def test_a_replaced_generator_of_numpy_is_restored(kind: type) -> None:
    objective, own = Objective(nn.Linear(1, 1), drawing_for_nothing), np.random.get_bit_generator()
    state = np.random.get_state()  # noqa: NPY002
    np.random.set_bit_generator(kind(8))
    try:
        np.random.normal()  # noqa: NPY002
        before = str(np.random.get_state(legacy=False))  # noqa: NPY002
        with objective.untouched_randomness(5):
            np.random.normal()  # noqa: NPY002
        assert str(np.random.get_state(legacy=False)) == before  # noqa: NPY002
    finally:
        np.random.set_bit_generator(own)
        np.random.set_state(state)  # noqa: NPY002


def test_parameters_and_buffers_are_back_after_an_error() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 3))
    model[2].weight = model[0].weight
    objective = Objective(model, drawing_for_nothing)
    before = [*model.named_parameters(remove_duplicate=False), *model.named_buffers()]
    zeros = [torch.zeros_like(parameter) for parameter in objective.parameters]

    def fails() -> None:
        assert not any(bool(parameter.any()) for parameter in model.parameters())
        assert model[2].weight is model[0].weight
        model[1].running_mean.fill_(7.0)
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        objective.with_parameters(zeros, fails)
    after = [*model.named_parameters(remove_duplicate=False), *model.named_buffers()]
    assert (
        all(a is b for (_, a), (_, b) in zip(before, after, strict=True))
        and not model[1].running_mean.any()
    )


def test_the_random_state_of_python_is_restored() -> None:
    script = """
import random, torch
from gradiometer.randomness import untouched_randomness
before = random.getstate()
with untouched_randomness(5, [torch.device("cpu")]):
    random.random()
assert random.getstate() == before
"""  # in another process, since the shape checker in this one draws random numbers
    subprocess.run([sys.executable, "-c", script], check=True)
