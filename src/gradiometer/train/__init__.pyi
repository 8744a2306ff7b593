from .cooling import Cooling as Cooling
from .cooling import TrainProbe as TrainProbe
from .loop import Watcher as Watcher
from .loop import resume as resume
from .loop import train as train
from .training import Training as Training
