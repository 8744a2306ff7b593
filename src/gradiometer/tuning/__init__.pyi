from .of_problem import tune_problem as tune_problem
from .tuned import Tuned as Tuned
from .tuning import tune as tune
