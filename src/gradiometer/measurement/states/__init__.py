"""The parameters of a model, which a measurement replaces and restores."""
