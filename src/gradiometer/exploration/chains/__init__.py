"""Chains: independent runs of one model as one computation, and how well they have mixed."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
