"""Checks of a watched loop: its arguments, its loss, its gradients and its batches."""
