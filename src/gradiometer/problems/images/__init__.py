"""Image classification on real data: digits, which ship, and Fashion-MNIST, which lies on disk."""
