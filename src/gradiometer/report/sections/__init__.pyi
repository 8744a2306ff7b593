from .catalogue import sections as sections
from .section import Figure as Figure
from .section import Numbers as Numbers
from .section import Section as Section
from .section import quantity_table as quantity_table
