from .averaging import exponential as exponential
from .averaging import polynomial as polynomial
from .averaging import refresh_batch_norm as refresh_batch_norm
from .averaging import suffix as suffix
from .averaging import uniform as uniform
