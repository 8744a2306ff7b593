"""Has this learning rate stopped paying off? Tests for it, and the noise floor that a cut would remove."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
