"""Cases with known answers, and the trainings on which forks and advice are judged."""
