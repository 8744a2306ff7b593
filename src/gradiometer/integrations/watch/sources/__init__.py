"""How the gradients of a training are had: one source for each way to train."""
