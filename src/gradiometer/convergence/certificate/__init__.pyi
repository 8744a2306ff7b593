from .certificate import Certificate as Certificate
from .certificate import PointKind as PointKind
from .certifying import certify as certify
from .certifying import gradient_squared as gradient_squared
from .gradient_norm import squared_norm as squared_norm
from .lowest_curvature import lanczos_deficit as lanczos_deficit
