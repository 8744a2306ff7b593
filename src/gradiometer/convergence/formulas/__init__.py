"""Formulas in t, and what they become for large t: exact constants, expansions, bounds."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
