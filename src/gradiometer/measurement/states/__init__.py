"""The state of a model and of the random generators, which a measurement replaces and restores."""
