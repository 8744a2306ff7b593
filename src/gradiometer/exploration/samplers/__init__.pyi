from .langevin import SGHMC as SGHMC
from .langevin import SGLD as SGLD
from .langevin import SGNHT as SGNHT
