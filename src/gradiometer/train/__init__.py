"""One training loop that can be read: plain torch, with the instrument beside it.

The arithmetic of training is the same with the instrument on, off, or at another cadence, so the weights are too.
"""

from gradiometer.train.loop import resume, train

__all__ = ["resume", "train"]
