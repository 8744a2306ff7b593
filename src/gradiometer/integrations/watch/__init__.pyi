from .description import sampling_of as sampling_of
from .findings import Findings as Findings
from .watch import watch as watch
from .watching import Watch as Watch
