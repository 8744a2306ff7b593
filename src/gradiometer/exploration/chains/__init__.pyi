from .mixing import mixing as mixing
from .sampling import sample as sample
