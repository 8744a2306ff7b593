"""Schedules: a learning rate as a pure function of the step that declares how it decays."""

import lazy_loader

# A text names a schedule by its class, so that every class must be known before one is read.
from gradiometer.convergence.schedules import shapes as shapes

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
