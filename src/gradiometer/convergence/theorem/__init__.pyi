from .conditions import Conditions as Conditions
from .evidence import Evidence as Evidence
from .evidence import evidence as evidence
from .theorem import Verdict as Verdict
from .theorem import read as read
from .theorem import theorem as theorem
