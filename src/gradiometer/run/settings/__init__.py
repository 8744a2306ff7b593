"""The configuration of a watched loop, and the schedule of a configuration."""
