"""Forks in the folder of a run: what was asked, what came of it, and what that means for the advice
of findings."""
