"""The sixteen tasks of the judgement of tuning, their trainings, and its rivals, for `tuning.py`."""
