from .detection import find_spikes as find_spikes
