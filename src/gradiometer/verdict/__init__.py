"""The verdict on a run: the one chain from its numbers to findings, and the one place where they
become sentences."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
