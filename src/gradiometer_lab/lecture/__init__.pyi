from .s09 import Ground as Ground
from .s09 import Move as Move
from .s09 import moves as moves
