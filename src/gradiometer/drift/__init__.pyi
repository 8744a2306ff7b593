from .along_gradient import CurvatureAlongGradient as CurvatureAlongGradient
from .batch_sharpness import BatchSharpness as BatchSharpness
from .curvature import Curvature as Curvature
from .loss_change import LossChange as LossChange
from .step_drift import StepDrift as StepDrift
