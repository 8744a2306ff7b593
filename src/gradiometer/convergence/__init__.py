"""Issue 3, convergence: schedules that know the theorem, and what a finite run asks instead."""
