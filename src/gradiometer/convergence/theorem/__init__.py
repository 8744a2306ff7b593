"""The classical convergence theorem: its three conditions on the learning rate, decided or undecided."""
