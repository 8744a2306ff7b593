from .forking.run_loop import loop_at as loop_at
from .forking.run_spike import spike_causes as spike_causes
from .loop import resume as resume
from .loop import train as train
