from .forking.run_incident import incident_cause as incident_cause
from .loop import resume as resume
from .loop import train as train
from .restoring import loop_at as loop_at
