"""Runs against one another."""
