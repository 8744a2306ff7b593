"""The lecture, live: S1 to S12, one file a statement, each predicted before it is measured."""
