from gradiometer_lab.one_step import CurvatureAlongGradient as CurvatureAlongGradient
from gradiometer_lab.one_step import LossChange as LossChange
from gradiometer_lab.one_step import StepDrift as StepDrift

from .batch_sharpness import BatchSharpness as BatchSharpness
from .batch_sharpness import PreconditionedSharpness as PreconditionedSharpness
from .curvature import Curvature as Curvature
