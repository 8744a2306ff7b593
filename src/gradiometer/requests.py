"""What a watch can be asked for besides what it measures: `w.certify(...)`, `w.sharpness(...)` and
whatever installed packages add.

A request is a function. Its first argument is what it may use of the watch: the model, the run and
the account of the time (`gradiometer.integrations.watch.requests.request.Request`). It is imported
when it is asked for.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from gradiometer.extensions import Registry

Request = Callable[..., Any]

REQUESTS: Registry[Request] = Registry(
    "gradiometer.requests",
    "request",
    check=lambda name, found: "" if callable(found) else "is no function",
)


def request_of(watch: object, name: str) -> Request:
    """The request of this name, for this watch: the answer of its `__getattr__`.

    Args:
        watch: What the request may use of the watch.
        name: The name, such as "certify".

    Raises:
        AttributeError: Nothing has this name.
    """
    # Python asks every object for such names, as when it is copied.
    if name.startswith("_"):
        raise AttributeError(f"{type(watch).__name__!r} object has no attribute {name!r}")
    request = REQUESTS.get(name)
    if request is None:
        raise AttributeError(
            f"A watch has no attribute and no request {name!r}: {REQUESTS.nearest(name)}."
        )
    return partial(request, watch)
