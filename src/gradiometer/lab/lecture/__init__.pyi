from .averaged_gradient import Ground as Ground
from .averaged_gradient import Move as Move
from .averaged_gradient import moves as moves
