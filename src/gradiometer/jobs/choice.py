"""A pool from its text form."""

import difflib
from collections.abc import Iterator
from contextlib import contextmanager

from gradiometer.errors import BadArgument
from gradiometer.jobs.here import Here
from gradiometer.jobs.on_ray import Ray
from gradiometer.jobs.pool import Pool
from gradiometer.jobs.processes import Processes

KINDS = ("here", "processes", "ray")


def pool_of(pool: str | Pool, name: str = "pool") -> Pool:
    """The pool of a text: "here", "processes", "processes:4", "ray", or "ray:ADDRESS" of an existing cluster.

    Args:
        pool: The text. A pool is returned as it is.
        name: Name of the argument, for messages.

    Raises:
        BadArgument: There is no such pool.
        Unsupported: Ray is not installed.

    Example:
        >>> from gradiometer.jobs import pool_of
        >>> pool_of("processes:4")
        Processes(4)
    """
    if isinstance(pool, Pool):
        return pool
    kind, colon, detail = pool.partition(":") if isinstance(pool, str) else ("", "", "")
    if kind == "here" and not colon:
        return Here()
    if kind == "processes" and not colon:
        return Processes()
    if kind == "processes" and detail.isdecimal() and int(detail):
        return Processes(int(detail))
    if kind == "ray" and (detail or not colon):
        return Ray(pool if detail.startswith("//") else detail or None)
    near = difflib.get_close_matches(kind, KINDS, n=1)
    meant = f" Did you mean {near[0]!r}?" if near and kind not in KINDS else ""
    raise BadArgument(f"`{name}` must be here, processes, processes:COUNT, ray or ray:ADDRESS, got {pool!r}.{meant}")


@contextmanager
def opened(pool: str | Pool, name: str = "pool") -> Iterator[Pool]:
    """The pool of a text, closed at the end. A pool that was given as one stays open."""
    made = pool_of(pool, name)
    try:
        yield made
    finally:
        if made is not pool:
            made.close()
