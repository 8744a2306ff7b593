"""Tests of the noise gauge on this machine, on problems with known per-example gradients."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
