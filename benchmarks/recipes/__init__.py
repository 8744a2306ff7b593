"""A bank of trainings that people publish, with the gains of changes and with mild faults."""
