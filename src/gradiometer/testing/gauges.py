"""The laws of gauges."""

import math
from collections.abc import Callable, Iterable
from dataclasses import fields
from typing import Any

import numpy as np

from gradiometer.measurement.estimate import Estimates
from gradiometer.measurement.finding import Issue
from gradiometer.measurement.gauge import NOTHING_KNOWN, Gauge, estimates_of, finding_of, measured
from gradiometer.measurement.reading import Reading, Series
from gradiometer.measurement.step import TrainingStep
from gradiometer.run.configuration import Configuration
from gradiometer.testing.steps import example_steps, training_state
from gradiometer.verdict.words.say import say

Steps = Callable[[], Iterable[TrainingStep]]


def check_gauge(gauge: Gauge, steps: Steps = example_steps) -> None:
    """Check the laws that every gauge must meet.

    1. Its class says what the package needs to know: name, issue, unit, labels, settings.
    2. Its `repr` recreates it, since that is written into the run.
    3. Measuring changes nothing that training uses, and gives the same numbers again.
    4. From two readings on it estimates a quantity that has a label, and every interval contains
       its value.
    5. Its finding rests on its own estimates, and has sentences without NaN.

    Args:
        gauge: The gauge.
        steps: Makes the steps on which it is tried, at least two, the same ones at every call.
            Default: steps of a small classifier.

    Raises:
        AssertionError: It breaks a law; the message says which.
        BadArgument: A method returns what it must not return, or a claim has no words.

    >>> from gradiometer import GradientNoise
    >>> from gradiometer.testing import check_gauge
    >>> check_gauge(GradientNoise())
    """
    _check_declaration(type(gauge))
    _check_repr(gauge)
    series = _check_measuring(gauge, steps)
    for window in (series[:2], series):
        _check_answers(gauge, estimates_of(gauge, window, 0.9))


def _check_declaration(kind: type[Gauge]) -> None:
    name = kind.__name__
    for attribute, wanted in (("name", str), ("issue", Issue), ("unit", str)):
        found = getattr(kind, attribute, None)
        _hold(isinstance(found, wanted), f"{name}.{attribute} is a {wanted.__name__}", found)
    _hold(kind.name.isidentifier(), f"{name}.name is an identifier", kind.name)
    labelled = bool(kind.labels) and all(label.strip() for label in kind.labels.values())
    _hold(labelled, f"{name}.labels has a label for each quantity", kind.labels)
    _hold(kind.one_in >= 1, f"{name}.one_in is at least 1", kind.one_in)
    processes = ("one", "many", "sharded")
    _hold(kind.processes in processes, f"{name}.processes is one of {processes}", kind.processes)
    # no process can run a sharded model alone
    runs = kind.needs_loss and kind.processes == "sharded"
    _hold(not runs, f"{name} runs no sharded model alone", "needs_loss with sharded")
    unknown = set(kind.from_run) - set(Configuration.__struct_fields__)
    _hold(not unknown, f"{name}.from_run names fields of Configuration", unknown)
    unknown = set(kind.symbols) - set(kind.labels)
    _hold(not unknown, f"{name}.symbols names quantities that have labels", unknown)


def _check_repr(gauge: Gauge) -> None:
    names = {field.name for field in fields(gauge)}
    unset = names - set(vars(gauge))
    _hold(not unset, f"every field of {gauge!r} is set", unset)
    again = eval(repr(gauge), {type(gauge).__name__: type(gauge), "inf": math.inf})
    _hold(again == gauge, f"the repr of {type(gauge).__name__} recreates it", repr(gauge))


def _check_measuring(gauge: Gauge, steps: Steps) -> Series:
    """The readings of the steps."""
    name = type(gauge).__name__
    readings = list[Reading]()
    first = next(iter(steps()))
    for step, same in zip(steps(), steps(), strict=True):
        model = step.objective.model
        before = training_state(model)
        moments = measured(gauge, step, list(step.objective.parameters))
        _hold(training_state(model) == before, f"{name} leaves training unchanged", step.index)
        again = measured(gauge, same, list(same.objective.parameters))
        _hold(_are_equal(moments, again), f"{name} measures the same of the same step", again)
        if moments is not None:
            of_step = (step.index, step.batch_size, step.learning_rate)
            readings.append(Reading(gauge.name, *of_step, moments))
    _hold(len(readings) >= 2, f"{name} has readings of at least two steps", len(readings))
    return Series.of(readings, first.sampling, tuple(first.objective.layers))


def _check_answers(gauge: Gauge, estimates: Estimates) -> None:
    name = type(gauge).__name__
    # others are only used in sentences and charts
    missing = not set(estimates) & set(gauge.labels)
    _hold(not missing, f"`estimate` of {name} returns a quantity that has a label", estimates)
    for quantity, estimate in estimates.items():
        is_known = estimate.tells and math.isfinite(estimate.value)
        inside = not is_known or estimate.low <= estimate.value <= estimate.high
        _hold(inside, f"the interval of {quantity} contains its value", estimate)
    finding = finding_of(gauge, estimates, NOTHING_KNOWN)
    if finding is None:
        return
    # a finding may give an estimate another name
    unknown = [
        quantity
        for quantity, number in finding.numbers.items()
        if quantity not in estimates and number not in estimates.values()
    ]
    _hold(not unknown, f"the finding of {name} rests on its estimates", unknown)
    text = str(say(finding))
    _hold(bool(text.strip()), f"the finding of {name} has sentences", text)
    _hold("nan" not in text.lower().split(), f"the sentences of {name} have no NaN", text)


def _are_equal(first: Any, second: Any) -> bool:
    if first is None or second is None:
        return first is second
    return bool(
        first.keys() == second.keys()
        and all(
            np.array_equal(np.asarray(first[name]), np.asarray(second[name]), equal_nan=True)
            for name in first
        )
    )


def _hold(holds: bool, law: str, found: object) -> None:
    """Raise if a law does not hold."""
    if not holds:
        raise AssertionError(f"{law}: found {found!r}")
