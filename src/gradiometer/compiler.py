"""A region in which compiled code runs as it was written."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

NAME = "torch._dynamo"


@contextmanager
def as_written() -> Iterator[None]:
    """A region in which compiled code runs eagerly; what was compiled stays.

    If the compiler is not imported, nothing is compiled, and asking for the region would import it.
    """
    import torch  # noqa: PLC0415  (a run is read without torch)

    if NAME not in sys.modules or not hasattr(torch.compiler, "set_stance"):
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield
