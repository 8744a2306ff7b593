"""The critical batch, measured by branches with tuned rates."""
