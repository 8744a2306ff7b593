"""The temperature SGD runs at: the thermometer, the heat balance, and laws with known answers."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
