from .theorem import theorem as theorem
