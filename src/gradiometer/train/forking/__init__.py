"""Forks of a run of `gradiometer train`."""
