"""`python -m gradiometer` is `gradiometer`."""

from gradiometer.cli import main

main()
