"""What follows a watched training: each part is an observer, and a watch has a list of them."""
