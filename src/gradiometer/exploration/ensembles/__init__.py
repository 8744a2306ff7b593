"""Ensembles: snapshots, their scores, how different they are, and how many runs they are worth."""
