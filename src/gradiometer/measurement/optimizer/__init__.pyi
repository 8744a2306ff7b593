from .groups import Group as Group
from .hyperparameters import Hyperparameters as Hyperparameters
