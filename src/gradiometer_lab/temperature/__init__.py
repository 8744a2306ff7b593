"""The temperature of SGD in closed form, of known directions, and of a sampler: the audit."""
