"""Chains: independent runs of one model as one computation, and how well they have mixed."""
