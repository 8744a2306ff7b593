from .examples import Examples as Examples
from .predictions import held_out_labels as held_out_labels
from .predictions import log_probabilities as log_probabilities
from .problem import Problem as Problem
from .registry import load as load
