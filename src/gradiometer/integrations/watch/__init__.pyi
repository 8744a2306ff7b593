from .description import sampling_of as sampling_of
from .watch import watch as watch
from .watching import Watch as Watch
