"""Losses on which SGD does what the convergence theorem leaves open."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
