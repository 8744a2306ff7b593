from .conditions import Conditions as Conditions
from .evidence import Evidence as Evidence
from .evidence import evidence as evidence
from .theorem import TheoremVerdict as TheoremVerdict
from .theorem import read as read
from .theorem import theorem as theorem
