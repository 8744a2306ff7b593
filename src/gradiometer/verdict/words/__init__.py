"""The words of verdicts: the one place where claims become sentences."""
