"""Named changes to how training continues: another rate, batch, momentum, schedule, optimizer, and others."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
