"""Spikes: where the loss rises above its noise and comes down again, and what caused them."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
