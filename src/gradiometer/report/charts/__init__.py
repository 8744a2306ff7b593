"""Charts: the same definition is drawn on the interactive page and as PNG or SVG."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
