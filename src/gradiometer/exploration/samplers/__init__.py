"""Samplers: optimizers whose iterates are draws from a posterior at a chosen temperature."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
