"""What is trained: real data sets, losses with known answers, and your own.

`load` makes one from its name; `Problem` and `Examples` define your own. Listing `NAMES` needs no
torch.

>>> from gradiometer.problems import load
>>> load("digits").train
<train: 1,437 examples, tensors>
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
