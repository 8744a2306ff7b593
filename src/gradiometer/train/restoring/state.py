"""The state of training as named tensors and plain values, so that a checkpoint needs no pickle."""

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gradiometer.errors import GradiometerError, RunDamaged
from gradiometer.train.training import Training

Tensors = dict[str, Tensor]
Values = dict[str, Any]


def capture(training: Training) -> tuple[Tensors, Values]:
    """Everything that the next step depends on: model, optimizer, schedule, place in the data,
    random states."""
    tensors = {f"model.{name}": value for name, value in training.model.state_dict().items()}
    optimizer = training.optimizer.state_dict()
    for index, state in optimizer["state"].items():
        tensors |= {
            f"optimizer.{index}.{name}": value
            for name, value in state.items()
            if isinstance(value, Tensor)
        }
    if training.cooling is not None:
        tensors |= {f"cooling.{name}": value for name, value in training.cooling.tensors().items()}
    random_tensors, random_values = _random_states(training.device)
    values = {
        "step": training.step,
        "first_loss": training.first_loss,
        "param_groups": optimizer["param_groups"],
        "schedule": repr(training.schedule),
        "scheduler": {
            name: value
            for name, value in training.scheduler.state_dict().items()
            if name != "lr_lambdas"
        },
        "random": random_values,
        "cooling": training.cooling.values() if training.cooling is not None else None,
    }
    if training.origin is not None:
        points, values["origin"] = training.origin.state_dict()
        tensors |= {f"origin.{name}": point for name, point in points.items()}
    return tensors | random_tensors, values


def restore(training: Training, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
    """Put a captured state back.

    Raises:
        RunDamaged: It was made under another schedule, or it does not fit the training. The state
            is then undefined.
    """
    with fitting():
        schedule = repr(training.schedule)
        made_under = values.get("schedule", schedule)
        if made_under != schedule:
            raise RunDamaged(
                f"`schedule` of the run is {schedule}, but its checkpoint was made under "
                f"{made_under}: put run.toml back as it was, or start a new run."
            )
        training.model.load_state_dict(_below("model", tensors))
        states: dict[int, dict[str, Tensor]] = {}
        for name, value in _below("optimizer", tensors).items():
            index, _, key = name.partition(".")
            states.setdefault(int(index), {})[key] = value
        training.optimizer.load_state_dict(
            {"state": states, "param_groups": values["param_groups"]}
        )
        # The schedule's function is no value. With None, torch keeps the present one.
        training.scheduler.load_state_dict({**values["scheduler"], "lr_lambdas": [None]})
        if training.cooling is not None:
            training.cooling.restore(_below("cooling", tensors), values["cooling"])
        training.step = values["step"]
        training.first_loss = values["first_loss"]
        # else it starts at the present parameters
        if training.origin is not None and "origin" in values:
            points = {
                name: point.to(training.device) for name, point in _below("origin", tensors).items()
            }
            training.origin.load_state_dict(points, values["origin"])
        set_random_states(training.device, tensors, values["random"])


@contextmanager
def fitting() -> Iterator[None]:
    """Raise RunDamaged if a state inside has other names, types or shapes than the training."""
    try:
        yield
    except GradiometerError:
        raise
    except (
        AttributeError,
        LookupError,
        TypeError,
        ValueError,
        ArithmeticError,
        RuntimeError,
    ) as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"[:200].rstrip(".")
        raise RunDamaged(
            f"its state does not fit the training that run.toml describes ({reason})."
        ) from error


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> Tensors:
    return {
        name.removeprefix(f"{prefix}."): t
        for name, t in tensors.items()
        if name.startswith(f"{prefix}.")
    }


def _random_states(device: torch.device) -> tuple[Tensors, Values]:
    """Torch's generators on the CPU and the device, Python's, and NumPy's global one."""
    tensors = {"random.torch": torch.get_rng_state()}
    if device.type != "cpu":
        tensors["random.device"] = torch.get_device_module(device.type).get_rng_state(device)
    version, words, gauss = random.getstate()
    numpy_state = np.random.get_state(legacy=False)  # noqa: NPY002 (the global one is what models use)
    tensors["random.python"] = torch.tensor(words, dtype=torch.int64)
    tensors["random.numpy"] = torch.from_numpy(numpy_state["state"]["key"].astype(np.int64))
    values = {
        "python": {"version": version, "gauss": gauss},
        "numpy": {
            "pos": numpy_state["state"]["pos"],
            "gauss": [numpy_state["has_gauss"], numpy_state["gauss"]],
        },
    }
    return tensors, values


def set_random_states(
    device: torch.device, tensors: Mapping[str, Tensor], values: Mapping[str, Any]
) -> None:
    """Put the random states back, from the tensors of `capture` and from "random" among
    its values."""
    torch.set_rng_state(tensors["random.torch"])
    if device.type != "cpu":
        torch.get_device_module(device.type).set_rng_state(tensors["random.device"], device)
    words = tuple(tensors["random.python"].tolist())
    random.setstate((values["python"]["version"], words, values["python"]["gauss"]))
    key = tensors["random.numpy"].numpy().astype(np.uint32)
    np.random.set_state(("MT19937", key, values["numpy"]["pos"], *values["numpy"]["gauss"]))  # noqa: NPY002
