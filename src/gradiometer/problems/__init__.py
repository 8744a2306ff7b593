"""Problems to measure: closed forms with known answers, and real data that ships or lies on disk.

`load` finds one by name; `Problem` and `Examples` make your own. They are imported when first asked for, so that
listing the names needs no torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
