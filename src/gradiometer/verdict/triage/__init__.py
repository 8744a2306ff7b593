"""Triage: what limits a run, from quantities that every training has."""
