"""The clinic: small trainings with one or two known illnesses, healthy ones, and what the verdict
says about them."""
