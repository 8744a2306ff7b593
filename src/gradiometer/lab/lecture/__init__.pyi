from .averaged_gradient import Ground as Ground
from .averaged_gradient import Move as Move
from .averaged_gradient import moves as moves
from .catalogue import STATEMENTS as STATEMENTS
from .catalogue import chosen as chosen
from .site import Site as Site
from .site import write_site as write_site
from .statement import run as run
