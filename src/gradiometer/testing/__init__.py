"""The laws that every gauge and every observer must meet, for the tests of packages that add
one."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
