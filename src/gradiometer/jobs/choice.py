"""A pool from its text form."""

import difflib

from gradiometer.errors import BadArgument
from gradiometer.jobs.here import Here
from gradiometer.jobs.pool import Pool
from gradiometer.jobs.processes import Processes

KINDS = ("here", "processes")


def pool_of(pool: str | Pool, name: str = "pool") -> Pool:
    """The pool of a text: "here", "processes" or "processes:4".

    Args:
        pool: The text. A pool is returned as it is.
        name: Name of the argument, for messages.

    Raises:
        BadArgument: There is no such pool.

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
    near = difflib.get_close_matches(kind, KINDS, n=1)
    meant = f" Did you mean {near[0]!r}?" if near and kind not in KINDS else ""
    raise BadArgument(f"`{name}` must be here, processes or processes:COUNT, got {pool!r}.{meant}")
