"""The instrument tested on the machine it runs on, on problems whose every per-example gradient is known."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
