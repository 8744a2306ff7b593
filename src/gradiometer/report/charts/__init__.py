"""Charts: one definition gives the interactive page and the PNG or SVG."""
