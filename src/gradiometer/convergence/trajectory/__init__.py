"""The path of the parameters: where training goes, and what kind of point it ends at."""
