from .audit import Audit as Audit
from .audit import audit as audit
from .stationary_law import SGDRule as SGDRule
from .stationary_law import reshuffled_covariance as reshuffled_covariance
from .stationary_law import stationary_covariance as stationary_covariance
from .thermometer import Temperature as Temperature
