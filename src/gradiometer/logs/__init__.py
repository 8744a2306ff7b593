"""Readers for the logs of other tools, and findings about a training from its log."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
