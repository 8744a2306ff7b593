from .evaluation import held_out_labels as held_out_labels
from .evaluation import log_probabilities as log_probabilities
from .examples import Examples as Examples
from .problem import Problem as Problem
from .registry import load as load
