"""What is timed by the benchmarks of cost: models, steps, runs, peers, and rounds in turns."""
