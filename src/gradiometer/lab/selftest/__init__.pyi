from .check import Check as Check
from .checks import run_checks as run_checks
