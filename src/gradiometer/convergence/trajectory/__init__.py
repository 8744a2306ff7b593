"""The path of the parameters: where training goes, and what kind of point it ends at."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
