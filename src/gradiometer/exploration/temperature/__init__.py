"""The temperature SGD runs at: the thermometer, the heat balance, and laws with known answers."""

from gradiometer.public_names import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
