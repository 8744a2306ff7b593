from .batch_table import relative_updates as relative_updates
from .example_norms import squared_norms as squared_norms
from .heavy_examples import HeavyExamples as HeavyExamples
from .noise import GradientNoise as GradientNoise
from .noise_shape import NoiseShape as NoiseShape
from .noise_sources import NoiseSources as NoiseSources
from .preconditioned_noise import PreconditionedNoise as PreconditionedNoise
