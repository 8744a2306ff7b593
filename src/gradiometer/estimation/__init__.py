"""Issue 1 of SGD: how accurate is the batch gradient ĝ as an estimate of g?"""

from gradiometer.public_names import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
