"""Ensembles: snapshots, their scores, their differences, and the number of runs they are equivalent
to."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
