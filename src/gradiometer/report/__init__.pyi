from .table import table_of as table_of
from .table import write_table as write_table
