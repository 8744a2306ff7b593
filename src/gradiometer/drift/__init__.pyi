from .batch_sharpness import BatchSharpness as BatchSharpness
from .batch_sharpness import PreconditionedSharpness as PreconditionedSharpness
from .curvature import Curvature as Curvature
from .one_step import CurvatureAlongGradient as CurvatureAlongGradient
from .one_step import LossChange as LossChange
from .one_step import StepDrift as StepDrift
