"""The runs of a folder at a glance: one line for each, sorted and filtered, and a page."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
