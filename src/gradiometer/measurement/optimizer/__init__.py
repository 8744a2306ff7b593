"""The settings of optimizers along a run, their record, and sentences about them."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
