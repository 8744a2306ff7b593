from .arithmetic import transform as transform
from .arithmetic import weighted_slope as weighted_slope
from .means import mean as mean
from .means import ratio_of_means as ratio_of_means
from .proportions import proportion as proportion
