"""The settings of optimizers along a run, their record, and sentences about them."""
