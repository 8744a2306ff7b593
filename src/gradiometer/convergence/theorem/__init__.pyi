from .theorem import TheoremVerdict as TheoremVerdict
from .theorem import theorem as theorem
