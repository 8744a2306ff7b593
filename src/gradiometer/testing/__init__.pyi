from .gauges import check_gauge as check_gauge
from .observers import check_observer as check_observer
from .steps import example_steps as example_steps
from .steps import training_state as training_state
