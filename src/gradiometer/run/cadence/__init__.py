"""When a run is measured, and what that costs."""
