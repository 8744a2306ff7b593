from .choice import pool_of as pool_of
from .job import Job as Job
from .job import Outcome as Outcome
from .ledger import Ledger as Ledger
from .pool import Pool as Pool
