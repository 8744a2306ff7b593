"""What would have happened: a training is continued from one state in several ways, on common data,
and compared."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
