"""Issue 2 of SGD, gradient drift: how g changes as Φ moves, and the curvature that
makes it change."""

from gradiometer.public_names import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
