"""Comparing alternatives: effects with intervals, and races."""
