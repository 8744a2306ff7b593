from .table import write_table as write_table
