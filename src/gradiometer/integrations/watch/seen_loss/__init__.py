"""The loss of a loop that gives none: recorded at some updates, and made again from another batch."""
