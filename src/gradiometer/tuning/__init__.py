"""SGD that chooses its own learning rate: a bracket of rates from a probe, and a choice within it by races."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
