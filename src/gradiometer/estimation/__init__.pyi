from gradiometer_lab.noise_shape import HeavyExamples as HeavyExamples
from gradiometer_lab.noise_shape import NoiseShape as NoiseShape

from .batch_table import relative_updates as relative_updates
from .micro_batches import squared_norms as squared_norms
from .noise import GradientNoise as GradientNoise
from .noise import NoiseSources as NoiseSources
from .preconditioned_noise import PreconditionedNoise as PreconditionedNoise
