from .choice import pool_of as pool_of
from .job import Job as Job
from .pool import Pool as Pool
