"""Networks whose noise is known along the run, and the scores of its readings, for `now.py`."""
