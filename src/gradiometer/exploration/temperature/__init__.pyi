from gradiometer_lab.temperature.audit import Audit as Audit
from gradiometer_lab.temperature.audit import audit as audit
from gradiometer_lab.temperature.thermometer import Temperature as Temperature
