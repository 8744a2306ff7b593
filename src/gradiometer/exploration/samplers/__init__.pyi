from .heat import Heat as Heat
from .sampler import Sampler as Sampler
from .sghmc import SGHMC as SGHMC
from .sgld import SGLD as SGLD
from .sgnht import SGNHT as SGNHT
