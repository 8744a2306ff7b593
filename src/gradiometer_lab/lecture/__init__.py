"""The lecture, live: S1 to S12, one file a statement, each predicted before it is measured."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
