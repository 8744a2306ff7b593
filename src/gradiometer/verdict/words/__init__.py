"""The one place of sentences: a table of claims, each with a function that says it."""
