"""The training of a run: as it was recorded, and at any of its steps."""
