"""A certificate: minimum, saddle or not stationary, at a confidence level."""
