"""What can be said of a training from the log it left: readers for the formats people have, and verdicts."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
