"""Losses on which SGD does what the convergence theorem leaves open."""
