"""Issue 2 of SGD, gradient drift: how g changes as Φ moves, and the curvature that makes it change."""
