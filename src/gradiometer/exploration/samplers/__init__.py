"""Samplers: optimizers whose iterates are draws from a posterior at a chosen temperature."""

from gradiometer.public_names import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
