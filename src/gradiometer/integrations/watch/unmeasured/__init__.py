"""Steps of a watched loop at which nothing is measured."""
