"""The runs of a folder at a glance: one line for each, sorted and filtered, and a page."""
