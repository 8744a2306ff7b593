"""The clock of the budget."""

import time
from collections.abc import Callable


def clock_for(device: str) -> Callable[[], float]:
    """The clock that counts what training and measuring cost on this kind of device.

    On the CPU it is the processor time of this process, with all its threads: on a busy machine the
    wall clock also counts other processes. With an accelerator it is the wall clock, since the
    processor does not do the work; measured steps wait for the accelerator before they are timed.

    Args:
        device: `torch.device.type` of the parameters.
    """
    return time.process_time if device == "cpu" else time.perf_counter
