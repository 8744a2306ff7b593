"""Charts: one definition gives the interactive page and the PNG or SVG."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
