from .one_dimensional import OneDimensional as OneDimensional
from .quadratic import Quadratic as Quadratic
