"""Issue 2 of SGD, gradient drift: how g changes as Φ moves, and the curvature that
makes it change."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
