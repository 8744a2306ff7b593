"""The classical convergence theorem: its three conditions on the learning rate, decided or
undecided."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
