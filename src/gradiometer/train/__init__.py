"""One training loop that can be read: plain torch, with the instrument beside it.

The arithmetic of training is the same with the instrument on, off, or at another cadence, so the
weights are too.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
