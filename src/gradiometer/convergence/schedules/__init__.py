"""Schedules: a learning rate as a pure function of the step that declares how it decays."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
