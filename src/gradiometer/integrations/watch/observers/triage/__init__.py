"""What triage records of a watched loop: numbers that training makes anyway, of every
tenth step."""
