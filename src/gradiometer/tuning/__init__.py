"""The optimizer and the learning rate of a training, chosen by a race whose winner goes on as the
training."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
