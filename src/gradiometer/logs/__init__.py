"""What can be said of a training from the log it left: readers for the formats people have, and verdicts."""
