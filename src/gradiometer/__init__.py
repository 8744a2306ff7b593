"""gradiometer: an instrument for stochastic gradient descent.

Public names by kind. They are imported when first asked for, so that reading a run needs no torch.

- the measurement: `Objective`, `supervised`, `TrainingStep`, `Gauge`, `Reading`, `Series`, `Estimate`, `Finding`,
  `Sampling`, `Draw`
- gauges: `GradientNoise`; the thermometer `Temperature`, with `Origin` for a loop of your own; `audit` for samplers
- schedules: `Schedule` and `theorem` with its `Verdict`; the shapes are in `gradiometer.convergence.schedules.shapes`
- samplers: `SGLD`, `SGHMC`, `SGNHT`, and `CyclicalSampling`; independent runs as one: `run_chains` and its `Chains`
- ensembles: `SnapshotCollector`, `Ensemble`; their scores are in `gradiometer.exploration.ensembles.scores`
- problems and runs: `Problem`, `Examples`, `Configuration`, `Run`, `diagnose` with its `Diagnosis`
- your own loop: `watch`, and `sampling_of` for its DataLoader
- modules: `gradiometer.problems.load`, `gradiometer.train.train` and `resume`
- errors: `GradiometerError`, `BadArgument`, `Diverged`, `Interrupted`
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gradiometer.convergence.schedules.schedule import Schedule
    from gradiometer.convergence.theorem.theorem import Verdict, theorem
    from gradiometer.diagnosis import Diagnosis, diagnose
    from gradiometer.errors import BadArgument, Diverged, GradiometerError, Interrupted
    from gradiometer.estimation.noise import GradientNoise
    from gradiometer.exploration.chains.chains import Chains, run_chains
    from gradiometer.exploration.ensembles.ensemble import Ensemble
    from gradiometer.exploration.ensembles.snapshots import SnapshotCollector
    from gradiometer.exploration.samplers.cyclical import CyclicalSampling
    from gradiometer.exploration.samplers.sghmc import SGHMC
    from gradiometer.exploration.samplers.sgld import SGLD
    from gradiometer.exploration.samplers.sgnht import SGNHT
    from gradiometer.exploration.temperature.audit import audit
    from gradiometer.exploration.temperature.thermometer import Temperature
    from gradiometer.integrations.watch.description import sampling_of
    from gradiometer.integrations.watch.watch import watch
    from gradiometer.measurement.estimate import Estimate
    from gradiometer.measurement.finding import Finding
    from gradiometer.measurement.gauge import Gauge
    from gradiometer.measurement.loss import supervised
    from gradiometer.measurement.motion import Origin
    from gradiometer.measurement.objective import Objective
    from gradiometer.measurement.reading import Draw, Reading, Sampling, Series
    from gradiometer.measurement.step import TrainingStep
    from gradiometer.problems.examples import Examples
    from gradiometer.problems.problem import Problem
    from gradiometer.run.configuration import Configuration
    from gradiometer.run.reader import Run

_HOMES = {
    "gradiometer.convergence.schedules.schedule": ("Schedule",),
    "gradiometer.convergence.theorem.theorem": (
        "Verdict",
        "theorem",
    ),
    "gradiometer.diagnosis": (
        "Diagnosis",
        "diagnose",
    ),
    "gradiometer.errors": (
        "BadArgument",
        "Diverged",
        "GradiometerError",
        "Interrupted",
    ),
    "gradiometer.estimation.noise": ("GradientNoise",),
    "gradiometer.exploration.temperature.audit": ("audit",),
    "gradiometer.exploration.chains.chains": (
        "Chains",
        "run_chains",
    ),
    "gradiometer.exploration.samplers.cyclical": ("CyclicalSampling",),
    "gradiometer.exploration.ensembles.ensemble": ("Ensemble",),
    "gradiometer.exploration.samplers.sghmc": ("SGHMC",),
    "gradiometer.exploration.samplers.sgld": ("SGLD",),
    "gradiometer.exploration.samplers.sgnht": ("SGNHT",),
    "gradiometer.exploration.ensembles.snapshots": ("SnapshotCollector",),
    "gradiometer.exploration.temperature.thermometer": ("Temperature",),
    "gradiometer.integrations.watch.description": ("sampling_of",),
    "gradiometer.integrations.watch.watch": ("watch",),
    "gradiometer.measurement.estimate": ("Estimate",),
    "gradiometer.measurement.finding": ("Finding",),
    "gradiometer.measurement.gauge": ("Gauge",),
    "gradiometer.measurement.motion": ("Origin",),
    "gradiometer.measurement.loss": ("supervised",),
    "gradiometer.measurement.objective": ("Objective",),
    "gradiometer.measurement.reading": (
        "Draw",
        "Reading",
        "Sampling",
        "Series",
    ),
    "gradiometer.measurement.step": ("TrainingStep",),
    "gradiometer.problems.examples": ("Examples",),
    "gradiometer.problems.problem": ("Problem",),
    "gradiometer.run.configuration": ("Configuration",),
    "gradiometer.run.reader": ("Run",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__version__ = "0.1.0"
__all__ = [
    "SGHMC",
    "SGLD",
    "SGNHT",
    "BadArgument",
    "Chains",
    "Configuration",
    "CyclicalSampling",
    "Diagnosis",
    "Diverged",
    "Draw",
    "Ensemble",
    "Estimate",
    "Examples",
    "Finding",
    "Gauge",
    "GradientNoise",
    "GradiometerError",
    "Interrupted",
    "Objective",
    "Origin",
    "Problem",
    "Reading",
    "Run",
    "Sampling",
    "Schedule",
    "Series",
    "SnapshotCollector",
    "Temperature",
    "TrainingStep",
    "Verdict",
    "__version__",
    "audit",
    "diagnose",
    "run_chains",
    "sampling_of",
    "supervised",
    "theorem",
    "watch",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'gradiometer' has no attribute {name!r}")
    return getattr(import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return __all__
