from .of_loop import tune as tune
from .of_problem import tune_problem as tune_problem
from .tuned import Tuned as Tuned
