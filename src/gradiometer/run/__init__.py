"""A run on disk: its folder, its journals, its checkpoints, and how they are written and read."""
