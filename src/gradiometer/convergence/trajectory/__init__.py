"""The path of the parameters: where training goes, and at what kind of point it ends."""
