"""Samplers: optimizers that draw from a posterior at the temperature they are asked for."""
