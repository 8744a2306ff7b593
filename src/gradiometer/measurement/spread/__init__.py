"""The spread of the gradients within one step: of single examples as they are made, or of parts that are run again."""
