"""Tests of the noise gauge on this machine, on problems with known per-example gradients."""
