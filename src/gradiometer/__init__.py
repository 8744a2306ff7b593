"""gradiometer: an instrument for stochastic gradient descent.

Public names by kind. They are imported when first asked for, so that reading a run needs no torch.

- the measurement: `Objective`, `supervised`, `TrainingStep`, `Gauge`, `Estimate`, `Finding`, `Sampling`, `Draw`
- gauges: `GradientNoise`
- intervals: `mean`, `ratio_of_means`
- errors: `GradiometerError`, `BadInput`, `Diverged`, `Interrupted`
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gradiometer.errors import BadInput, Diverged, GradiometerError, Interrupted
    from gradiometer.estimation.noise import GradientNoise
    from gradiometer.measurement.gauge import Gauge
    from gradiometer.measurement.objective import Objective, supervised
    from gradiometer.measurement.reading import Draw, Estimate, Finding, Sampling
    from gradiometer.measurement.step import TrainingStep

_HOMES = {
    "gradiometer.errors": ("BadInput", "Diverged", "GradiometerError", "Interrupted"),
    "gradiometer.measurement.objective": ("Objective", "supervised"),
    "gradiometer.measurement.step": ("TrainingStep",),
    "gradiometer.measurement.gauge": ("Gauge",),
    "gradiometer.measurement.reading": ("Draw", "Estimate", "Finding", "Sampling"),
    "gradiometer.estimation.noise": ("GradientNoise",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__version__ = "0.1.0"
__all__ = [
    "BadInput",
    "Diverged",
    "Draw",
    "Estimate",
    "Finding",
    "Gauge",
    "GradientNoise",
    "GradiometerError",
    "Interrupted",
    "Objective",
    "Sampling",
    "TrainingStep",
    "__version__",
    "supervised",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'gradiometer' has no attribute {name!r}")
    return getattr(import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return __all__
