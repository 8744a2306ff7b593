"""The instrument in any loop: your own, Lightning's, the Hugging Face Trainer's; on one process or
many."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
