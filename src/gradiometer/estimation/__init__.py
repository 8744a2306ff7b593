"""Issue 1 of SGD: how accurate is the batch gradient ĝ as an estimate of g?"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
