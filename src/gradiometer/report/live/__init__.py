"""The page of a run while it is written, served to this machine."""
