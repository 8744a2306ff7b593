from .configuration import Configuration as Configuration
from .reader import Run as Run
from .trust import trusting as trusting
