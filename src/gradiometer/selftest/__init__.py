"""The instrument tested on the machine it runs on, on problems whose every per-example gradient is known."""

from gradiometer.selftest.check import Check
from gradiometer.selftest.checks import run_checks

__all__ = ["Check", "run_checks"]
