"""What a measurement is: an objective, a step of training, a gauge, its readings, and their uncertainty."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
