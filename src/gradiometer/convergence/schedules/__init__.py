"""Schedules: a learning rate as a pure function of the step that declares how it decays."""
