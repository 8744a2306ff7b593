from .choice import pool_of as pool_of
from .here import Here as Here
from .job import Job as Job
from .job import Outcome as Outcome
from .ledger import Ledger as Ledger
from .on_ray import Ray as Ray
from .pool import Pool as Pool
from .processes import Processes as Processes
