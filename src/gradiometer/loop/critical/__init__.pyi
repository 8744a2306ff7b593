from .batch import CriticalBatch as CriticalBatch
from .batch import critical_batch_by as critical_batch_by
from .cells import Cell as Cell
from .fit import BatchFit as BatchFit
from .fit import batch_fit as batch_fit
from .of_loop import critical_batch as critical_batch
