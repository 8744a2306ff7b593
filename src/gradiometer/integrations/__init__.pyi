from .huggingface import HuggingFaceCallback as HuggingFaceCallback
from .lightning import LightningCallback as LightningCallback
from .trackers import Trackers as Trackers
