from .forking.run_spike import incident_cause as incident_cause
from .forking.run_spike import spike_causes as spike_causes
from .loop import resume as resume
from .loop import train as train
from .restoring import loop_at as loop_at
