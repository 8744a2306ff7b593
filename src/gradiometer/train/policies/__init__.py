"""What a training decides on its way, by forks."""
