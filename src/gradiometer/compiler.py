"""A region in which compiled code runs as it was written."""

import sys
from contextlib import AbstractContextManager, nullcontext

NAME = "torch._dynamo"


def as_written() -> AbstractContextManager[object]:
    """A region in which compiled code runs eagerly; what was compiled stays.

    If the compiler is not imported, nothing is compiled, and asking for the region would import it.
    """
    import torch  # noqa: PLC0415  (a run is read without torch)

    if NAME not in sys.modules:
        return nullcontext()
    eager: AbstractContextManager[object] = torch.compiler.set_stance("force_eager")
    return eager
