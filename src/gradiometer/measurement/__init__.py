"""What a measurement is: an objective, a step of training, a gauge, its readings, and their uncertainty."""
