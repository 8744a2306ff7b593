"""Samplers: optimizers whose iterates are draws from a posterior at a chosen temperature."""
