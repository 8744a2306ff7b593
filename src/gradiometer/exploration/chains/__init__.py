"""Chains: independent runs of one model as one computation, and how well they have mixed."""

from gradiometer.public_names import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
