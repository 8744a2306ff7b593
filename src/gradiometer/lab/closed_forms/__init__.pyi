from .double_well import DoubleWell as DoubleWell
from .linear_regression import LinearRegression as LinearRegression
from .logistic_regression import LogisticRegression as LogisticRegression
from .one_dimensional import OneDimensional as OneDimensional
from .quadratic import Quadratic as Quadratic
