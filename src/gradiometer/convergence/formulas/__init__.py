"""Formulas in t, and what they become for large t: exact constants, expansions, bounds."""
