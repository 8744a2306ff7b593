from .check import SelfTest as SelfTest
from .checks import run_checks as run_checks
