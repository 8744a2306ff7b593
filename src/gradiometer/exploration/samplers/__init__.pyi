from .sghmc import SGHMC as SGHMC
from .sgld import SGLD as SGLD
from .sgnht import SGNHT as SGNHT
