from gradiometer_lab.temperature.audit import Audit as Audit
from gradiometer_lab.temperature.audit import audit as audit

from .thermometer import Temperature as Temperature
