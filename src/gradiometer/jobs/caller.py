"""What a job takes over from the program that submitted it."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import torch

IN_POOL = "GRADIOMETER_IN_POOL"
"""Set in the processes of a pool and below. There `Processes` and `Ray` start no further processes."""


def in_pool() -> bool:
    """True in a process of a pool."""
    return os.environ.get(IN_POOL) == "1"


@dataclass(frozen=True)
class Caller:
    """Settings of the submitting program that its functions and their numbers may depend on.

    Args:
        path: Python's search path.
        folder: The working folder.
        dtype: torch's default dtype.
        device: torch's default device.
        precision: Precision of products of float32 matrices.
        deterministic: torch's deterministic algorithms: off, "warn" or "error", as its debug mode 0, 1, 2.
        cudnn: cuDNN's settings `deterministic`, `benchmark` and `allow_tf32`.
    """

    path: tuple[str, ...]
    folder: str
    dtype: torch.dtype
    device: torch.device
    precision: str
    deterministic: int
    cudnn: tuple[bool, bool, bool]

    @classmethod
    def here(cls) -> "Caller":
        """The settings of this process."""
        cudnn = torch.backends.cudnn
        return cls(
            tuple(sys.path),
            os.getcwd(),  # noqa: PTH109
            torch.get_default_dtype(),
            torch.get_default_device(),
            torch.get_float32_matmul_precision(),
            torch.get_deterministic_debug_mode(),
            (cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32),
        )

    def imitate(self) -> None:
        """Give this process the same settings. A folder that is missing here is left out."""
        sys.path[:] = [*self.path, *(entry for entry in sys.path if entry not in self.path)]
        with suppress(OSError):
            os.chdir(self.folder)
        torch.set_default_dtype(self.dtype)
        if self.device != torch.get_default_device():
            torch.set_default_device(self.device)
        torch.set_float32_matmul_precision(self.precision)
        torch.set_deterministic_debug_mode(self.deterministic)
        cudnn = torch.backends.cudnn
        cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32 = self.cudnn

    @contextmanager
    def imitated(self) -> Iterator[None]:
        """Give this process the same settings, and mark it as one of a pool, inside."""
        before, marked = Caller.here(), in_pool()
        os.environ[IN_POOL] = "1"
        self.imitate()
        try:
            yield
        finally:
            before.imitate()
            if not marked:
                del os.environ[IN_POOL]
