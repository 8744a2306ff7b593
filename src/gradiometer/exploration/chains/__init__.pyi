from .mixing import Mixing as Mixing
from .mixing import mixing as mixing
from .sampling import Sampled as Sampled
from .sampling import sample as sample
