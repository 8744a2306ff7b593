from .averaging import refresh_batch_norm as refresh_batch_norm
