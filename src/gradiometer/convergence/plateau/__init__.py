"""Has this learning rate stopped paying? Tests for it, and the noise floor a cut would remove."""
