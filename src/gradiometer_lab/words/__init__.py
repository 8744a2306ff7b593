"""The sentences of the findings of the laboratory, a table of claims for each gauge."""
