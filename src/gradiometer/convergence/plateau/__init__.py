"""Has this learning rate stopped paying off? Tests for it, and the noise floor that a cut would
remove."""
