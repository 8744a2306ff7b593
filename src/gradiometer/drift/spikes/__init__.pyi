from .detection import Spike as Spike
from .detection import find_spikes as find_spikes
