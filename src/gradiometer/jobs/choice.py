"""A pool from its text form."""

import difflib
import re
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from gradiometer.errors import BadArgument
from gradiometer.extensions import Registry
from gradiometer.jobs.pool import Here, Pool
from gradiometer.jobs.processes import Processes

MakePool = Callable[[str], Pool]
"""Makes a pool of what follows the colon of its text; of an empty text if nothing does."""

# Pools that other packages add. Those of gradiometer are told apart by `pool_of`.
POOLS: Registry[MakePool] = Registry(
    "gradiometer.pools",
    "pool",
    check=lambda name, found: "" if callable(found) else "is no function",
)
BUILT_IN = ("here", "processes", "ray")


def pool_of(pool: str | Pool, name: str = "pool") -> Pool:
    """The pool of a text: "here", "processes", "processes:4", "ray", "ray:ADDRESS" of an existing
    cluster, or "NAME" or "NAME:SETTING" of a pool that another package adds.

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
    found = re.fullmatch("(here)|processes(?::(0*[1-9][0-9]*))?|ray(?::(.+))?", str(pool))
    if found is None or not isinstance(pool, str):
        kind, _, setting = str(pool).partition(":")
        if kind not in BUILT_IN and (make := POOLS.get(kind)) is not None:
            return make(setting)
        near = difflib.get_close_matches(kind, (*BUILT_IN, *POOLS), n=1)
        meant = f" Did you mean {near[0]!r}?" if near and near[0] != kind else ""
        raise BadArgument(
            f"`{name}` must be here, processes, processes:COUNT, ray"
            f"{''.join(f', {each}' for each in POOLS)} or ray:ADDRESS, got {pool!r}.{meant}"
        )
    here, count, address = found.groups()
    if here:
        return Here()
    if pool.startswith("processes"):
        return Processes(int(count) if count else None)
    from gradiometer.jobs.on_ray import Ray  # noqa: PLC0415  (an extra, which takes a second)

    return Ray(pool if address and address.startswith("//") else address)


def opened(pool: str | Pool) -> AbstractContextManager[Pool]:
    """The pool of a text, closed at the end. A pool that was given as one stays open."""
    made = pool_of(pool)
    made.check()
    return nullcontext(made) if made is pool else made
