"""Loops as other people write them, for `forks_of_loops.py`."""
