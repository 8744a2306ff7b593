from .cooling import Cooling as Cooling
from .cooling import TrainProbe as TrainProbe
from .forking.run_fork import RunFork as RunFork
from .forking.run_fork import fork_run as fork_run
from .loop import Watcher as Watcher
from .loop import resume as resume
from .loop import train as train
from .training import Training as Training
