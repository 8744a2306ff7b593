"""Image classification on real data: digits, which come with the package, and Fashion-MNIST, read
from disk."""
