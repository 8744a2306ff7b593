from .asymptotics import Asymptotics as Asymptotics
from .expression import Expression as Expression
from .functions import exponential as exponential
from .functions import larger as larger
from .functions import logarithm as logarithm
from .functions import smaller as smaller
