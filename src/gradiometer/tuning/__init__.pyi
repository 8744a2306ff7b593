from .of_loop import tune as tune
from .of_problem import ProblemTuned as ProblemTuned
from .of_problem import tune_problem as tune_problem
from .race import Entry as Entry
from .race import Race as Race
from .race import Rung as Rung
from .tuned import Tried as Tried
from .tuned import Tuned as Tuned
