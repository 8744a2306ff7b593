"""Issue 3, convergence: schedules that know the theorem, and what a finite run asks instead."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
