"""Every operation of an action fails once: those of Python, and those of the system."""

import errno
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from faults import ERRORS, REFUSALS, check_sentence, failing
from system_calls import can_trace, places, traced

from gradiometer import GradiometerError

Prepare = Callable[[], Callable[[], object]]
Check = Callable[[str, bool], None]


def every_file_operation(
    prepare: Prepare,
    check: Check,
    refusals: tuple[type[GradiometerError], ...] = REFUSALS,
    filled: Sequence[Any] = (),
) -> int:
    """Fail those of Python's `os`."""
    act = prepare()
    with failing(None) as counted:
        act()
    assert counted.calls
    for place, name in enumerate(counted.calls):
        label, act, error = f"call {place}, {name}", prepare(), None
        with failing(place, ERRORS[place % len(ERRORS)]):
            try:
                act()
            except GradiometerError as raised:
                error = raised
        check(label, check_sentence(error, refusals, label))
    return len(counted.calls)


def every_system_call(
    prepare: Prepare,
    check: Check,
    refusals: tuple[type[GradiometerError], ...] = REFUSALS,
    filled: list[Any] | None = None,
) -> int:
    """Fail those of a forked process."""
    filled = [] if filled is None else filled
    prepare()()  # imports
    calls = traced(prepare()).calls
    for place, (name, number) in enumerate(places(calls)):
        word = errno.errorcode[ERRORS[place % len(ERRORS)]]
        found = traced(prepare(), lambda: filled, f"{name}:error={word}:when={number}")
        label = f"call {place}, {found.changed}"
        assert len(found.changed) == 1, label
        filled[:] = found.told
        check(label, check_sentence(found.error, refusals, label))
    return len(calls)


each_way = pytest.mark.parametrize(
    "fail_every_call",
    [
        pytest.param(every_file_operation, id="file operations"),
        pytest.param(
            every_system_call,
            id="system calls",
            marks=[
                pytest.mark.slow,
                pytest.mark.skipif(
                    not can_trace(), reason="strace is missing, or may not trace here"
                ),
            ],
        ),
    ],
)
"""A test gets a function that fails each call of an action in turn, on fresh ground, with another
error each time.

Its arguments: `prepare` makes the ground and returns the action; `check` is called after each
attempt with its name and True if it raised; then the errors that may be raised, and a list that the
action fills. It returns the number of attempts.
"""
