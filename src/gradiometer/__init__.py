"""gradiometer: an instrument for stochastic gradient descent.

Names are imported when they are first used, so reading a run needs no torch. What is public is
named: the names in `gradiometer.__all__` and in `__all__` of each room (a sub-package such as
`gradiometer.drift`). Every other module path is private and may change.

- your own loop: `watch`, `Watch`, `sampling_of` for its DataLoader; `NormsWatch` for a loop without
  PyTorch
- what would have happened, and which rate: `Loop`, `fork`, `tune`; the changes are in
  `gradiometer.loop`
- what a run says: `Run`, `diagnose`, `Diagnosis`, `say`, `Finding`, `Estimate`, `Issue`, `State`
- measuring: `Objective`, `supervised`, `TrainingStep`, `Gauge`, `GAUGES`, `Series`, `Sampling`,
  `Draw`
- gauges: `GradientNoise`, `Temperature`; the others are in `gradiometer.estimation` and
  `gradiometer.drift`
- schedules: `Schedule`, `theorem`; the shapes are in `gradiometer.convergence.schedules`
- sampling: `SGLD`, `SGHMC`, `SGNHT`; ensembles: `SnapshotCollector`, `Ensemble`
- training: `Problem`, `Examples`, `Configuration`; `train` and `resume` are in `gradiometer.train`
- errors: `GradiometerError` and the errors below it, drawn in `gradiometer.errors`
"""

from gradiometer.public_names import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
__version__ = "0.3.0"
