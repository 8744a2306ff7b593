from .asymptotics import Asymptotics as Asymptotics
from .asymptotics import larger as larger
from .asymptotics import logarithm as logarithm
from .asymptotics import smaller as smaller
from .expression import Expression as Expression
