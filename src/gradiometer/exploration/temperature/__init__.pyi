from .audit import Audit as Audit
from .audit import audit as audit
from .thermometer import Temperature as Temperature
