from .huggingface import HuggingFaceCallback as HuggingFaceCallback
from .lightning import LightningCallback as LightningCallback
from .norms import NormsWatch as NormsWatch
